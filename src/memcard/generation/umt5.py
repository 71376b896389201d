"""What UMT5 is told and what it says: the tokenizer out of the user's own text encoder, and its states.

Words outside a prompt say nothing: the encoder does not look at the padding, and its states there are
zeros, as Wan was trained. Emphasis multiplies the states of the emphasised tokens, as for T5.

Source: diffusers ``pipeline_wan.py``; google/sentencepiece ``unigram_model.cc``; google/umt5-xxl.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final, Protocol

from torch import Tensor

from memcard.core.checkpoint import Checkpoint
from memcard.errors import CorruptError, MismatchError
from memcard.generation.t5 import t5_states
from memcard.generation.t5_tokenizer import Tokens
from memcard.generation.umt5_model import SentencePieceModel, read_json, read_model
from memcard.generation.umt5_normalizer import Charsmap, normalized
from memcard.generation.words import Words

WORDS: Final = "spiece_model"  # the vocabulary's tensor in single files of UMT5
_MOST_BYTES: Final = 64 << 20
# Where a folder has it beside its text encoder: diffusers', then the one Wan's authors published.
_PLACES: Final = (
    *("../tokenizer/spiece.model", "spiece.model", "google/umt5-xxl/spiece.model"),
    *("../tokenizer/tokenizer.json", "tokenizer.json", "google/umt5-xxl/tokenizer.json"),
)
_BLANKS: Final = re.compile(r"\s")


class Source(Protocol):
    """A text encoder, not yet loaded: ``parts.Part`` is one."""

    @property
    def view(self) -> Checkpoint:
        """Where its tensors are."""
        ...

    @property
    def names(self) -> Mapping[str, str]:
        """Name in transformers' model to name in ``view``."""
        ...

    @property
    def label(self) -> str:
        """What to call its file in errors."""
        ...


@dataclass(frozen=True)
class Umt5Tokenizer:
    """Turns a prompt into token ids: those of SentencePiece.

    Attributes:
        model: the vocabulary.
        label: what to call its file in errors.
    """

    model: SentencePieceModel
    label: str = "the vocabulary"

    def tokens(self, words: Words, length: int) -> Tokens:
        """Return exactly ``length`` ids with their weights, and what did not fit.

        The text is split as a whole, so that emphasis never changes the ids; a token has the weight of
        its last character.

        Args:
            words: the prompt; a break is a blank.
            length: 1 or more, the end included.
        """
        text, weights = cleaned(words)
        model = self.model
        made, told = normalized(
            text, weights, self._charsmap, prefix=model.add_prefix, collapse=model.collapse
        )
        encoding = self._backend.encode(made, add_special_tokens=False)
        found = [
            (known, told[end - 1], start)
            for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True)
            for known in self._known(token, made[start:end])
        ]
        room = length - 1
        kept, rest = found[:room], room - len(found[:room])
        cut = made[found[room][2] :].replace("▁", " ").strip() if len(found) > room else ""
        return Tokens(
            (*(token for token, _, _ in kept), model.end, *[model.padding] * rest),
            (*(weight for _, weight, _ in kept), *[1.0] * (1 + rest)),
            len(kept) + 1,
            cut,
        )

    def _known(self, token: int, text: str) -> Sequence[int]:
        """Return a token, or the bytes of what no piece fits."""
        if token != self.model.unknown or not self._bytes:
            return (token,)
        return [self._bytes[byte] for byte in text.encode()]

    @cached_property
    def _charsmap(self) -> Charsmap:
        return Charsmap.of(self.model.charsmap, self.label)

    @cached_property
    def _bytes(self) -> Mapping[int, int]:
        """Return the piece of each byte; {} if they do not stand in for what is unknown."""
        if not self.model.byte_fallback:
            return {}
        there = {p.text: i for i, p in enumerate(self.model.pieces) if p.kind == "byte"}
        found = {byte: there.get(f"<0x{byte:02X}>") for byte in range(256)}
        if any(token is None for token in found.values()):
            raise CorruptError(
                f"{self.label}: its vocabulary spells the unknown in bytes and has {len(there)} of the 256. "
                "Use another copy of the text encoder."
            )
        return {byte: token for byte, token in found.items() if token is not None}

    @cached_property
    def _backend(self) -> Any:
        from tokenizers import Tokenizer
        from tokenizers.models import Unigram

        pieces = self.model.pieces
        scores = [piece.score for piece in pieces if piece.kind == "normal"]
        most = max(scores, default=0.0)
        listed = []
        for i, piece in enumerate(pieces):
            if piece.kind == "normal":
                listed.append((piece.text, piece.score))
            elif piece.kind == "user":  # always taken where it fits
                listed.append((piece.text, len(piece.text) * most - 0.1))
            else:  # no text of a prompt is one of these: no prompt holds a zero
                listed.append((f"\0{i}", most))
        return Tokenizer(Unigram(listed, unk_id=self.model.unknown, byte_fallback=False))


def cleaned(words: Words) -> tuple[str, list[float]]:
    """Return a prompt as Wan's pipeline cleans it, with the weight of each character.

    Entities of HTML become characters, blanks of all kinds one blank, and none stand at the ends. diffusers
    also mends wrongly decoded text where the package ftfy is installed; here it stays as it was written.
    """
    made: list[str] = []
    told: list[float] = []
    for piece, weight in words.pieces:
        for character in html.unescape(html.unescape(piece)).replace("\0", ""):
            blank = _BLANKS.match(character) is not None
            if blank and (not made or made[-1] == " "):
                continue
            made.append(" " if blank else character)
            told.append(weight)
    if made and made[-1] == " ":
        made.pop()
        told.pop()
    return "".join(made), told


def umt5_tokenizer(part: Source) -> Umt5Tokenizer:
    """Return the tokenizer that came with a text encoder: in its file, or beside it in its folder.

    Raises:
        MismatchError: there is none; says where it may come from.
        CorruptError, UnsupportedError: see ``umt5_model``.
    """
    name = part.names.get(WORDS)
    if name is not None:
        return _of_bytes(bytes(part.view.read(name)), part.label)
    for path in _beside(part):
        data, label = path.read_bytes(), f"{part.label}: {path.name}"
        return _of_json(data, label) if path.suffix == ".json" else _of_bytes(data, label)
    raise MismatchError(
        f"{part.label}: a text encoder UMT5 without its tokenizer. Use a file that brings it along in a tensor "
        f"{WORDS!r}, such as umt5_xxl_fp8_e4m3fn_scaled.safetensors or umt5_xxl_fp16.safetensors, with "
        "--text-encoder; or put spiece.model of google/umt5-xxl beside the file."
    )


@lru_cache(maxsize=2)
def _of_bytes(data: bytes, label: str) -> Umt5Tokenizer:
    return Umt5Tokenizer(read_model(data, label), label)


@lru_cache(maxsize=2)
def _of_json(data: bytes, label: str) -> Umt5Tokenizer:
    return Umt5Tokenizer(read_json(data, label), label)


def _beside(part: Source) -> list[Path]:
    """Return the files of a tokenizer that lie where those of a text encoder's folder do."""
    folder = _folder(part.view, part.names)
    if folder is None:
        return []
    found = [folder / place for place in _PLACES]
    return [path for path in found if path.is_file() and path.stat().st_size <= _MOST_BYTES]


def _folder(view: Checkpoint, names: Mapping[str, str]) -> Path | None:
    """Return the folder of a text encoder's file; None if its bytes lie in no plain file."""
    extents = (view.extent(name) for name in names.values())
    return next((extent.path.parent for extent in extents if extent is not None), None)


def umt5_states(
    module: Any,
    tokenizer: Umt5Tokenizer,
    words: Words,
    length: int,
    *,
    extras: Mapping[str, Any] | None = None,
) -> Tensor:
    """Return the states of the words, then zeros: [1, length, width].

    Args:
        module: transformers' UMT5EncoderModel.
        tokenizer: its words.
        words: the prompt.
        length: tokens, the end and the padding included.
        extras: of the pipeline; the list ``cut`` gets the words that did not fit.
    """
    states, mask = t5_states(module, tokenizer, words, length, extras=extras, masked=True)
    states[mask == 0] = 0
    return states
