"""T5's tokenizer, from the vocabulary that ships with the package.

One for Flux.1, Stable Diffusion 3, LTX-Video and everything else that reads T5 1.1. Ids are those of
transformers' T5TokenizerFast, whose import would cost seconds.

Source: google/t5-v1_1-xxl (Apache-2.0); transformers ``tokenization_t5.py``; see
``generation/tokenizers/t5/README.md``.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

from memcard.generation.words import Words

PAD: Final = 0
END: Final = 1


@dataclass(frozen=True, slots=True)
class Tokens:
    """A prompt in T5's ids.

    Attributes:
        ids: as many as asked for: words, the end, padding.
        weights: emphasis of each; 1.0 for the end and the padding.
        count: how many are not padding.
        cut: the end of the prompt that did not fit, "" if all did.
    """

    ids: Sequence[int]
    weights: Sequence[float]
    count: int
    cut: str


@dataclass(frozen=True, slots=True)
class T5Tokenizer:
    """Turns a prompt into token ids."""

    backend: Any
    end: int = END
    padding: int = PAD

    def encode(self, text: str, length: int) -> tuple[list[int], str]:
        """Return exactly ``length`` ids, and the end of ``text`` that did not fit ("" if all did)."""
        found = self.tokens(Words(((text, 1.0),)), length)
        return list(found.ids), found.cut

    def tokens(self, words: Words, length: int) -> Tokens:
        """Return exactly ``length`` ids with their weights.

        The text is split as a whole, so that emphasis never changes the ids; a token has the weight of
        its last character.

        Args:
            words: the prompt; a break is a blank.
            length: 1 or more, the end included.
        """
        text = words.text
        encoding = self.backend.encode(text, add_special_tokens=False)
        room = length - 1
        kept = encoding.ids[:room]
        cut = text[encoding.offsets[room][0] :] if len(encoding.ids) > room else ""
        by_character = [w for piece, w in words.pieces for _ in piece]
        weights = [_weight(by_character, span) for span in encoding.offsets[:room]]
        rest = room - len(kept)
        return Tokens(
            (*kept, self.end, *[self.padding] * rest),
            (*weights, *[1.0] * (1 + rest)),
            len(kept) + 1,
            cut,
        )


def _weight(by_character: Sequence[float], span: tuple[int, int]) -> float:
    """Return the weight of a token that covers ``span``; one that covers nothing stands before it."""
    at = max(span[1] - 1, span[0])
    return by_character[at] if at < len(by_character) else 1.0


@cache
def t5_tokenizer() -> T5Tokenizer:
    """Return the packaged tokenizer of T5; reads 0.6 MB, 0.1 CPU seconds once."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import pre_tokenizers

    backend = Backend.from_str(_json().decode())
    # transformers splits at blanks first, as Google's own file does; it differs at U+0085 alone.
    backend.normalizer = backend.normalizer[0]
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), backend.pre_tokenizer]
    )
    return T5Tokenizer(backend)


def t5_files(*, length: int) -> Mapping[str, bytes]:
    """Return the files of a tokenizer folder, as transformers' T5TokenizerFast reads them.

    Args:
        length: most tokens of a prompt, the end included: 512 for Flux.1 dev, 256 for Stable Diffusion 3.
    """
    special: dict[str, Any] = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    extra = [f"<extra_id_{i}>" for i in range(100)]
    config = {
        "tokenizer_class": "T5Tokenizer",
        "model_max_length": length,
        "extra_ids": len(extra),
        "additional_special_tokens": extra,
        "clean_up_tokenization_spaces": False,
        "legacy": True,
        **special,
    }
    special |= {"additional_special_tokens": extra}
    return {
        "tokenizer.json": _json(),
        "tokenizer_config.json": json.dumps(config, indent=2).encode(),
        "special_tokens_map.json": json.dumps(special, indent=2).encode(),
    }


def _json() -> bytes:
    path = files("memcard") / "generation" / "tokenizers" / "t5" / "tokenizer.json.gz"
    return gzip.decompress(path.read_bytes())
