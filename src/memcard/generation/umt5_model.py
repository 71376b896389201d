"""A SentencePiece vocabulary, read from its protobuf: what a text encoder's ``spiece_model`` tensor holds.

Single files of UMT5 (Wan) carry their tokenizer as bytes among the weights. They come from strangers, so
nothing in them is believed: lengths are held against what is there, and every fault is a CorruptError.

Source: google/sentencepiece, ``sentencepiece_model.proto``; https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from memcard.errors import CorruptError, UnsupportedError

PieceKind: TypeAlias = Literal["normal", "unknown", "control", "user", "unused", "byte"]

_MOST_BYTES: Final = 64 << 20  # UMT5's own has 4.5 MB
_MOST_PIECES: Final = 1 << 20
_LONGEST: Final = 1 << 10  # bytes of one piece
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_KINDS: Final[Mapping[int, PieceKind]] = {
    1: "normal", 2: "unknown", 3: "control", 4: "user", 5: "unused", 6: "byte",
}  # fmt: skip
_UNIGRAM: Final = 1
# Fields of ModelProto, of one piece, of TrainerSpec and of NormalizerSpec.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_TEXT, _SCORE, _KIND = 1, 2, 3
_MODEL_TYPE, _SUFFIX, _BYTES, _END, _PAD = 3, 24, 35, 42, 43
_CHARSMAP, _PREFIX, _COLLAPSE, _ESCAPE = 2, 3, 4, 5
_MINUS: Final = 1 << 63  # a varint from here on is a negative number


@dataclass(frozen=True, slots=True)
class Piece:
    """One entry of the vocabulary."""

    text: str
    score: float
    kind: PieceKind = "normal"


@dataclass(frozen=True, slots=True)
class SentencePieceModel:
    """A Unigram vocabulary and how text is made ready for it.

    Attributes:
        pieces: by id.
        unknown: id of what no piece fits.
        end: id of the end of a prompt.
        padding: id of what fills it up.
        byte_fallback: what no piece fits becomes its UTF-8 bytes.
        charsmap: what characters become first, as ``umt5_normalizer.Charsmap`` reads it; b"" for nothing.
        add_prefix: a blank stands before the text.
        collapse: blanks at the ends go, several become one.
    """

    pieces: tuple[Piece, ...]
    unknown: int
    end: int
    padding: int
    byte_fallback: bool = False
    charsmap: bytes = b""
    add_prefix: bool = True
    collapse: bool = True


def read_model(data: bytes, label: str) -> SentencePieceModel:
    """Read a SentencePiece model.

    Args:
        data: the file ``spiece.model``, or the bytes of a ``spiece_model`` tensor.
        label: what to call it in errors.

    Raises:
        CorruptError: it is no SentencePiece model, or its parts contradict each other.
        UnsupportedError: it is one of another kind than Unigram.
    """
    if len(data) > _MOST_BYTES:
        raise CorruptError(
            f"{label}: a vocabulary of {len(data)} bytes, at most {_MOST_BYTES} are read."
        )
    try:
        return _model(memoryview(data), label)
    except _BadError as error:
        raise CorruptError(
            f"{label}: is no SentencePiece model: {error}. Use another copy of the text encoder."
        ) from error


def read_json(data: bytes, label: str) -> SentencePieceModel:
    """Read the same from a ``tokenizer.json`` of a diffusers folder.

    Raises:
        CorruptError: it is no such file.
        UnsupportedError: its model is not Unigram.
    """
    try:
        whole = json.loads(data)
        model = whole["model"]
        if model["type"] != "Unigram":
            raise UnsupportedError(
                f"{label}: its words are of type {str(model['type'])[:40]!r}, and memcard reads Unigram. "
                "Use the tokenizer of google/umt5-xxl."
            )
        pieces = _json_pieces(model["vocab"], whole.get("added_tokens") or [])
        ids = {piece.text: i for i, piece in enumerate(pieces)}
        made = SentencePieceModel(
            pieces,
            unknown=int(model["unk_id"]),
            end=ids.get("</s>", 1),
            padding=ids.get("<pad>", 0),
            byte_fallback=bool(model.get("byte_fallback")),
            charsmap=_json_charsmap(whole.get("normalizer")),
        )
        return _checked(made)
    except (ValueError, TypeError, KeyError, IndexError, RecursionError, _BadError) as error:
        if isinstance(error, UnsupportedError):
            raise
        raise CorruptError(
            f"{label}: is no tokenizer.json of a Unigram vocabulary: {error}. Use another copy of the folder."
        ) from error


class _BadError(Exception):
    """What is wrong with the bytes; becomes a CorruptError."""


def _model(data: memoryview, label: str) -> SentencePieceModel:
    pieces: list[Piece] = []
    trainer: dict[int, Any] = {}
    normalizer: dict[int, Any] = {}
    for number, value in _fields(data):
        if number == _PIECES:
            pieces.append(_piece(_bytes(value)))
            if len(pieces) > _MOST_PIECES:
                raise _BadError(f"it has more than {_MOST_PIECES} pieces")
        elif number == _TRAINER:
            trainer |= dict(_fields(_bytes(value)))
        elif number == _NORMALIZER:
            normalizer |= dict(_fields(_bytes(value)))
    if trainer.get(_MODEL_TYPE, _UNIGRAM) != _UNIGRAM or trainer.get(_SUFFIX):
        raise UnsupportedError(
            f"{label}: its vocabulary is not Unigram with blanks before words, the only kind memcard "
            "reads. Use the text encoder umt5_xxl."
        )
    if not normalizer.get(_ESCAPE, 1):
        raise UnsupportedError(f"{label}: its vocabulary keeps blanks; memcard reads those with ▁.")
    unknown = [i for i, piece in enumerate(pieces) if piece.kind == "unknown"]
    if len(unknown) != 1:
        raise _BadError(f"{len(unknown)} of its {len(pieces)} pieces stand for the unknown, not 1")
    made = SentencePieceModel(
        tuple(pieces),
        unknown=unknown[0],
        end=_id(trainer, _END, "</s>", pieces, 1),
        padding=_id(trainer, _PAD, "<pad>", pieces, 0),
        byte_fallback=bool(trainer.get(_BYTES, 0)),
        charsmap=bytes(_bytes(normalizer.get(_CHARSMAP, memoryview(b"")))),
        add_prefix=bool(normalizer.get(_PREFIX, 1)),
        collapse=bool(normalizer.get(_COLLAPSE, 1)),
    )
    return _checked(made)


def _checked(model: SentencePieceModel) -> SentencePieceModel:
    count = len(model.pieces)
    if not count:
        raise _BadError("it has no pieces")
    for what in ("unknown", "end", "padding"):
        at = getattr(model, what)
        if not 0 <= at < count:
            raise _BadError(f"its id of {what} is {at}, and it has {count} pieces")
    odd = next((p for p in model.pieces if not math.isfinite(p.score)), None)
    if odd is not None:
        raise _BadError(f"piece {odd.text[:40]!r} has the score {odd.score}")
    return model


def _id(trainer: Mapping[int, Any], number: int, text: str, pieces: list[Piece], usual: int) -> int:
    """Return an id that the trainer says, else that of a piece of this name."""
    said = trainer.get(number)
    if isinstance(said, int) and 0 <= said < len(pieces):
        return said
    return next((i for i, piece in enumerate(pieces) if piece.text == text), usual)


def _piece(data: memoryview) -> Piece:
    text, score, kind = memoryview(b""), 0.0, 1
    for number, value in _fields(data):
        if number == _TEXT:
            text = _bytes(value)
        elif number == _SCORE:
            if not isinstance(value, float):
                raise _BadError("the score of a piece is no number")
            score = value
        elif number == _KIND:
            if not isinstance(value, int) or value not in _KINDS:
                raise _BadError(f"a piece is of the kind {value!r}, and there are 1 to 6")
            kind = value
    if not 0 < len(text) <= _LONGEST:
        raise _BadError(f"a piece has {len(text)} bytes, and there may be 1 to {_LONGEST}")
    try:
        return Piece(str(text, "utf-8"), score, _KINDS[kind])
    except UnicodeDecodeError as error:
        raise _BadError("a piece is not UTF-8") from error


def _fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    """Yield number and value of each field: int, float or bytes; 64-bit numbers are passed over."""
    at, size = 0, len(data)
    while at < size:
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield number, value - (1 << 64) if value >= _MINUS else value
        elif wire == _LENGTH:
            length, at = _varint(data, at)
            if length > size - at:
                raise _BadError(
                    f"a field of {length} bytes begins {size - at} bytes before the end"
                )
            yield number, data[at : at + length]
            at += length
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
            if length > size - at:
                raise _BadError("it ends within a number")
            if wire == _FIXED32:
                yield number, struct.unpack_from("<f", data, at)[0]
            at += length
        else:
            raise _BadError(f"it has a field of wire type {wire}")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """Return a number of up to ten bytes, and where the next thing begins."""
    value, shift = 0, 0
    while True:
        if at >= len(data):
            raise _BadError("it ends within a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & ((1 << 64) - 1), at
        shift += 7
        if shift > 63:
            raise _BadError("a number has more than ten bytes")


def _bytes(value: object) -> memoryview:
    if not isinstance(value, memoryview):
        raise _BadError("a number is where bytes should be")
    return value


def _json_pieces(vocab: Any, added: Any) -> tuple[Piece, ...]:
    marked = {str(token["content"]): bool(token.get("special")) for token in added}
    if not isinstance(vocab, list) or len(vocab) > _MOST_PIECES:
        raise _BadError(f"its vocabulary is no list of at most {_MOST_PIECES} pieces")
    pieces = []
    for text, score in vocab:
        if not isinstance(text, str):
            raise _BadError("a piece is no text")
        kind: PieceKind = "normal"
        if text in marked:
            kind = "unknown" if text == "<unk>" else "control" if marked[text] else "user"
        elif len(text) == len("<0x00>") and text.startswith("<0x") and text.endswith(">"):
            kind = "byte"
        pieces.append(Piece(text, float(score), kind))
    return tuple(pieces)


def _json_charsmap(normalizer: Any) -> bytes:
    """Return the characters' map of a normalizer, or of one in a sequence; b"" if it has none."""
    if not isinstance(normalizer, dict):
        return b""
    if normalizer.get("type") == "Precompiled":
        return base64.b64decode(normalizer["precompiled_charsmap"] or "", validate=True)
    listed = normalizer.get("normalizers")
    found = [_json_charsmap(one) for one in listed if isinstance(one, dict)] if listed else []
    return next((one for one in found if one), b"")
