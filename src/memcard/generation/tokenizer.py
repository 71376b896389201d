"""CLIP's tokenizer, from vocabularies that ship with the package.

Built on the ``tokenizers`` library with the rules of transformers' CLIPTokenizer, whose import
would cost seconds.

Source: OpenAI CLIP ``simple_tokenizer.py``; transformers ``tokenization_clip.py``.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

from memcard.errors import NotFoundError

START: Final = "<|startoftext|>"
END: Final = "<|endoftext|>"
_WORDS: Final = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
# name: vocabulary, what prompts are padded with
KINDS: Final[Mapping[str, tuple[str, str]]] = {
    "clip": ("clip", END),
    "clip_bang": ("clip", "!"),
    "starter": ("starter", END),
}
_CLIP_MERGES: Final = 49152 - 256 - 2  # the file holds more than CLIP uses


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """Turns a prompt into token ids.

    Attributes:
        backend: of the ``tokenizers`` library.
        start: id that every prompt begins with.
        end: id that ends it.
        padding: id of what follows the end: OpenAI's encoders take the end again, OpenCLIP's take 0.
        comma: id of a comma, where a long prompt may be broken; None if the vocabulary has none.
    """

    backend: Any
    start: int
    end: int
    padding: int
    comma: int | None = None

    def tokens(self, text: str) -> list[tuple[int, int]]:
        """Return the ids of ``text`` alone, each with the place in ``text`` where it begins."""
        encoding = self.backend.encode(text, add_special_tokens=False)
        return [(i, first) for i, (first, _) in zip(encoding.ids, encoding.offsets, strict=True)]

    def encode(self, text: str, length: int) -> tuple[list[int], str]:
        """Return exactly ``length`` ids, and the end of ``text`` that did not fit ("" if all did)."""
        tokens, room = self.tokens(text), length - 2
        ids = [i for i, _ in tokens[:room]]
        cut = text[tokens[room][1] :] if len(tokens) > room else ""
        return self.framed(ids, length), cut

    def framed(self, ids: Sequence[int], length: int) -> list[int]:
        """Return exactly ``length`` ids: the start, at most ``length - 2`` of ``ids``, the end, padding."""
        return [self.start, *ids, self.end, *[self.padding] * (length - 2 - len(ids))]


@cache
def tokenizer(name: str) -> Tokenizer:
    """Return the packaged tokenizer ``clip``, ``clip_bang`` or ``starter``.

    ``clip_bang`` has the words of ``clip`` and pads with ``!``, which is id 0, as OpenCLIP does.

    Raises:
        NotFoundError: none of that name ships with the package.
    """
    if name not in KINDS:
        raise NotFoundError(f"no tokenizer {name!r}. There are: {', '.join(KINDS)}.")
    kind, padding = KINDS[name]
    return _build(*vocabulary(kind), padding)


def vocabulary(name: str) -> tuple[Mapping[str, int], list[tuple[str, str]]]:
    """Return the ids by token, and the merges in their order, of a packaged tokenizer.

    Raises:
        NotFoundError: none of that name ships with the package.
    """
    if name == "clip":
        return _clip()
    if name == "starter":
        return _starter()
    raise NotFoundError(f"no tokenizer {name!r}. There are: clip, starter.")


def _clip() -> tuple[Mapping[str, int], list[tuple[str, str]]]:
    """Rebuild the 49,408 entries from OpenAI's list of merges."""
    path = files("memcard") / "generation" / "tokenizers" / "clip" / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(path.read_bytes()).decode().split("\n")[1 : _CLIP_MERGES + 1]
    merges = [(a, b) for a, _, b in (line.partition(" ") for line in lines)]
    letters = _letters()
    tokens = [*letters, *(c + "</w>" for c in letters), *(a + b for a, b in merges), START, END]
    return {token: i for i, token in enumerate(tokens)}, merges


def _letters() -> list[str]:
    """The 256 bytes as printable characters, in GPT-2's order."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in plain]
    return [*map(chr, plain), *(chr(256 + i) for i in range(len(hidden)))]


def _starter() -> tuple[Mapping[str, int], list[tuple[str, str]]]:
    folder = files("memcard") / "starter" / "config" / "tokenizer"
    lines = (folder / "merges.txt").read_text("utf-8").split("\n")[1:]
    merges = [(a, b) for a, _, b in (line.partition(" ") for line in lines if line)]
    return json.loads((folder / "vocab.json").read_text("utf-8")), merges


def _build(vocabulary: Mapping[str, int], merges: list[tuple[str, str]], padding: str) -> Tokenizer:
    from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    backend = Backend(
        models.BPE(
            vocab=dict(vocabulary),
            merges=merges,
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            fuse_unk=False,
            unk_token=END,
        )
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t in (START, END)]
    )
    ends = vocabulary[START], vocabulary[END]
    return Tokenizer(backend, *ends, vocabulary[padding], vocabulary.get(",</w>"))
