"""How SentencePiece makes text ready for its vocabulary: characters replaced, blanks counted and marked.

The replacements are a double array (Darts): a tree of UTF-8 bytes in one list of numbers, whose leaves say
where the replacement begins. It is walked here with every step checked, as it lies in a stranger's file;
the reader of the ``tokenizers`` library stops the program on a bad one.

Source: google/sentencepiece, ``normalizer.cc``; https://github.com/s-yata/darts-clone.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from sys import byteorder
from typing import Final

from memcard.errors import CorruptError

BLANK: Final = "▁"
_LONGEST: Final = 256  # bytes that may become of one match; 33 in NFKC
_UNIT: Final = 4  # bytes of one number


@dataclass(frozen=True, slots=True)
class Charsmap:
    """What becomes of characters.

    Attributes:
        tree: the double array.
        texts: what leaves point into, ended by zeros.
        label: what to call the file in errors.
    """

    tree: Sequence[int]
    texts: bytes
    label: str

    @classmethod
    def of(cls, data: bytes, label: str) -> Charsmap:
        """Read the bytes ``precompiled_charsmap``; b"" changes nothing.

        Raises:
            CorruptError: they are too short.
        """
        if not data:
            return cls((), b"", label)
        size = int.from_bytes(data[:_UNIT], "little")
        if len(data) < _UNIT or size % _UNIT or not 0 < size <= len(data) - _UNIT:
            raise _corrupt(label, f"its tree of {size} bytes does not fit into {len(data)}")
        tree = array("I", data[_UNIT : _UNIT + size])
        if byteorder == "big":
            tree.byteswap()
        return cls(tree, data[_UNIT + size :], label)

    def match(self, data: bytes, at: int) -> tuple[bytes, int] | None:
        """Return what the longest known beginning of ``data[at:]`` becomes, and its length; None if none is."""
        if not self.tree:
            return None
        found = None
        unit = self._unit(0)
        node = _offset(unit)
        for end in range(at, len(data)):
            node ^= data[end]
            unit = self._unit(node)
            if unit & 0x800000FF != data[end]:
                break
            node ^= _offset(unit)
            if unit >> 8 & 1:
                found = self._unit(node) & 0x7FFFFFFF, end + 1 - at
        return None if found is None else (self._text(found[0]), found[1])

    def _unit(self, at: int) -> int:
        if at >= len(self.tree):
            raise _corrupt(self.label, f"its tree of {len(self.tree)} has no place {at}")
        return self.tree[at]

    def _text(self, at: int) -> bytes:
        end = self.texts.find(b"\0", at)
        end = len(self.texts) if end < 0 else end
        if at > len(self.texts) or end - at > _LONGEST:
            raise _corrupt(self.label, f"a replacement at {at} of {len(self.texts)} is too long")
        return self.texts[at:end]


def _offset(unit: int) -> int:
    return (unit >> 10) << ((unit & 1 << 9) >> 6)


def _corrupt(label: str, what: str) -> CorruptError:
    return CorruptError(
        f"{label}: the map of characters in its vocabulary is damaged: {what}. Use another copy of the text "
        "encoder."
    )


def normalized(
    text: str, weights: Sequence[float], charsmap: Charsmap, *, prefix: bool, collapse: bool
) -> tuple[str, list[float]]:
    """Return text as the vocabulary knows it, with a weight for each of its characters.

    Args:
        text: the prompt, in Unicode.
        weights: one for each character of ``text``.
        charsmap: what characters become.
        prefix: put a blank before the text.
        collapse: no blanks at the ends, no two in a row.
    """
    made: list[str] = []
    told: list[float] = []
    data, by_byte = _bytes(text, weights)
    at, after_blank = 0, collapse
    while at < len(data):
        found, length = charsmap.match(data, at) or _one(data, at)
        weight = by_byte[at]
        at += length
        for character in _decoded(found, charsmap.label):
            blank = character == " "
            if not (blank and after_blank):
                made.append(BLANK if blank else character)
                told.append(weight)
            after_blank = collapse and blank
    while collapse and made and made[-1] == BLANK:
        made.pop()
        told.pop()
    if prefix and made:
        made.insert(0, BLANK)
        told.insert(0, told[0])
    return "".join(made), told


def _bytes(text: str, weights: Sequence[float]) -> tuple[bytes, list[float]]:
    """Return UTF-8, halves of characters left out, and the weight of each byte."""
    data = bytearray()
    found: list[float] = []
    for character, weight in zip(text, weights, strict=True):
        part = character.encode("utf-8", "ignore")
        data += part
        found += [weight] * len(part)
    return bytes(data), found


def _one(data: bytes, at: int) -> tuple[bytes, int]:
    """Return the character at ``at`` as it is."""
    first = data[at]
    length = 1 if first < 0x80 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4
    return data[at : at + length], length


def _decoded(data: bytes, label: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise _corrupt(label, "a replacement is not UTF-8") from error
