"""``delta_ans`` of values whose sign was put behind their last bit: for sizes that are known, with any sign.

The first moment of Adam is about as large as the root of the second one, but nobody knows its sign. As a
difference of signed numbers half of the values would lie on the far side of zero; so the sign goes where it
costs the one bit it is worth.

Source: as ``delta_ans``; ``docs/spec/delta.md``.
"""

from __future__ import annotations

import numpy as np

from memcard.codecs import CODECS
from memcard.codecs._ans_model import Array, scratch
from memcard.codecs._planes import values_of

_PIECE = 1 << 15  # values; what is computed of them stays in the second cache


class TurnedAns:
    """Turns the bits of both by one, then codes how many values the new one is from the base's."""

    title = "Difference of sizes to a base, rANS by the base's exponent"
    source = "FM-Delta, NeurIPS 2024; arXiv:1311.2540"
    needs_base = True

    def encode(self, new: memoryview, item: int, base: memoryview | None = None) -> bytes:
        """Compress the differences."""
        turned = _turned(values_of(new, item), "turned new")
        there = None if base is None else _turned(values_of(base, item), "turned base")
        return CODECS["delta_ans"].encode(turned, item, there)

    def decode(
        self, packed: memoryview, out: memoryview, item: int, base: memoryview | None = None
    ) -> None:
        """Add the differences to the base."""
        if base is not None and len(base) == len(out):
            _turn(values_of(base, item), values_of(out, item))
            base = out
        CODECS["delta_ans"].decode(packed, out, item, base)
        _turn_back(values_of(out, item))


def _turned(values: Array, name: str) -> memoryview:
    """Return the values with the bits turned to the left by one, in memory of this thread."""
    raw = scratch(name, values.nbytes)
    _turn(values, raw.view(values.dtype))
    return raw.data


def _turn(values: Array, out: Array) -> None:
    """Turn the bits to the left by one; ``out`` may be the values themselves."""
    word, last = values.dtype.type, values.dtype.type(8 * values.itemsize - 1)
    for at in range(0, len(values), _PIECE):
        part = values[at : at + _PIECE]
        sign = part >> last
        np.left_shift(part, word(1), out=out[at : at + _PIECE])
        out[at : at + _PIECE] |= sign


def _turn_back(values: Array) -> None:
    word, last = values.dtype.type, values.dtype.type(8 * values.itemsize - 1)
    for at in range(0, len(values), _PIECE):
        part = values[at : at + _PIECE]
        sign = part << last
        part >>= word(1)
        part |= sign


PLUGIN = TurnedAns()
