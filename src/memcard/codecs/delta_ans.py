"""The distance to a base, coded with the frequencies of its neighbourhood: the smallest delta.

A step of training has about one absolute size all over a tensor, so counted in representable values its size
depends on the weight's exponent. The base tells the exponent to the decoder as well: each range of
exponents gets frequencies of its own, and no order need be stored. rANS spends fractions of a bit on a value,
which zstd's Huffman codes cannot.

Source: the ordered mapping of FM-Delta (Ning et al. 2024, NeurIPS); Duda 2013, arXiv:1311.2540;
``docs/spec/delta.md``.
"""

from __future__ import annotations

import struct

import numpy as np

from memcard.codecs import _ans
from memcard.codecs._ans_model import LANES, PRECISION, STATE, Array, scratch
from memcard.codecs._planes import values_of
from memcard.errors import CorruptError, MismatchError

_HEADER = struct.Struct("<IQHBB")  # words, extra bits, bytes of the tables, groups - 1, precision
_BITS_SLACK = 8 * LANES + 8  # bytes behind the extra bits that may be read of a damaged block


class DeltaAns:
    """Codes how many representable values the new one is from the base's."""

    title = "Difference to a base, rANS by the base's exponent"
    source = "FM-Delta, NeurIPS 2024; arXiv:1311.2540"
    needs_base = True

    def encode(self, new: memoryview, item: int, base: memoryview | None = None) -> bytes:
        """Compress the differences; values beyond a multiple of 32 are kept as they are."""
        values, there = values_of(new, item), values_of(_base(base, len(new)), item)
        count = values.size - values.size % LANES
        tail = values[count:].tobytes()
        if not count:
            return tail
        work = _ans.kernels()
        symbols, contexts = scratch("symbols", count), scratch("contexts", count)
        zigzag = scratch("zigzag", count * item).view(values.dtype)
        work.spread(values[:count], there[:count], symbols, contexts, zigzag)
        model = _ans.fitted(symbols, contexts, count)
        states, words = _ans.coded(symbols, contexts, model, count)
        extra = scratch("extra", count * item + 16)
        bits = work.extras(symbols, zigzag, count, extra)
        tables = _ans.packed(model)
        head = _HEADER.pack(len(words) // 2, bits, len(tables), len(model.first) - 1, PRECISION)
        part = extra[: (bits + 7) // 8].data
        return b"".join((head, tables, states, part, words, tail))

    def decode(
        self, packed: memoryview, out: memoryview, item: int, base: memoryview | None = None
    ) -> None:
        """Add the differences to the base."""
        target, there = values_of(out, item), _base(base, len(out))
        if there is not out:
            target[:] = values_of(there, item)
        count = target.size - target.size % LANES
        at = len(packed) - (target.size - count) * item
        if at < 0 or (at > 0) != (count > 0):
            raise CorruptError(f"delta_ans: {target.size} values do not fit {len(packed)} bytes.")
        out[count * item :] = packed[at:]
        if count:
            _restore(packed, at, target[:count])


def _restore(packed: memoryview, end: int, target: Array) -> None:
    """Decode the part of a block before ``end``, all but the values kept as they are, onto the base."""
    if end < _HEADER.size:
        raise CorruptError("delta_ans: the block ends in its header.")
    words, bits, tables, groups, precision = _HEADER.unpack_from(packed)
    at = _HEADER.size + tables
    states_end = at + _ans.STATES_BYTES
    extra_end = states_end + (bits + 7) // 8
    if extra_end + 2 * words != end or precision != PRECISION:
        raise CorruptError("delta_ans: the block's header and its size disagree.")
    model = _ans.model_from(packed[_HEADER.size : at], groups + 1)
    states = np.frombuffer(packed[at:states_end], "<u4").copy()
    extra = np.frombuffer(packed[states_end:], np.uint8)
    if len(packed) - extra_end < _BITS_SLACK:  # only then is a copy needed
        padded = np.zeros(extra_end - states_end + _BITS_SLACK, np.uint8)
        padded[: extra.size] = extra[: padded.size]
        extra = padded
    coded = _ans.words_of(packed[extra_end:end])
    even = _ans.kernels().restore(target, target.size, model, coded, words, extra, bits, states)
    if not even or (states != STATE).any():
        raise CorruptError("delta_ans: the block does not come out even.")


def _base(base: memoryview | None, size: int) -> memoryview:
    if base is None or len(base) != size:
        has = "none is given" if base is None else f"{len(base)} bytes are given"
        raise MismatchError(f"delta_ans: needs a base of {size} bytes, {has}.")
    return base


PLUGIN = DeltaAns()
