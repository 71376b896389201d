"""Byte planes, each in the form that makes it smallest: for weights without a base.

The bits are turned by one first, so that the sign lies behind the last bit and the highest plane holds the
exponent alone (of float16: the exponent and three bits more). That plane is coded with rANS; the planes
below are noise in trained weights, and stored as they are, but not where a tensor was cast from a narrower
dtype or repeats itself.

Sources: the byte grouping of ZipNN (Hershcovitch et al. 2024, arXiv:2411.05239); Duda 2013,
arXiv:1311.2540; zstd is RFC 8878. Layout in ``docs/spec/delta.md``.
"""

from __future__ import annotations

import struct

import numpy as np

from memcard.codecs import _ans
from memcard.codecs._ans_model import LANES, STATE, Array, scratch
from memcard.codecs._planes import LEVEL, unpressed, values_of
from memcard.errors import CorruptError

_STORED, _CONSTANT, _ZSTD, _ANS = range(4)
_PLANE = struct.Struct("<BI")  # form, length
_CODED = struct.Struct("<IH")  # words, bytes of the tables
_SAMPLE = 1 << 15  # bytes of a plane by which its form is chosen
_NOISE = 7.95  # bits per byte; above that nothing is gained that is worth a decoder's time
_WINS = 0.97  # zstd must be that much smaller than rANS, which is faster


class PlanesAns:
    """Groups the bytes of values by their place, and codes each group by itself."""

    title = "Byte planes, rANS or zstd"
    source = "arXiv:2411.05239; arXiv:1311.2540; RFC 8878"
    needs_base = False

    def encode(self, new: memoryview, item: int, base: memoryview | None = None) -> bytes:
        """Compress the values by themselves."""
        values = values_of(new, item)
        planes = scratch("planes", values.nbytes).reshape(item, values.size)
        _ans.kernels().rotate(values, planes)
        packed = [_packed(plane) for plane in planes]
        heads = (_PLANE.pack(form, len(part)) for form, part in packed)
        return b"".join((*heads, *(part for _, part in packed)))

    def decode(
        self, packed: memoryview, out: memoryview, item: int, base: memoryview | None = None
    ) -> None:
        """Put the planes together."""
        target = values_of(out, item)
        planes = scratch("planes", target.nbytes).reshape(item, target.size)
        at = item * _PLANE.size
        if len(packed) < at:
            raise CorruptError("planes_ans: the block ends in its header.")
        for i, plane in enumerate(planes):
            form, length = _PLANE.unpack_from(packed, i * _PLANE.size)
            if length > len(packed) - at:
                raise CorruptError(f"planes_ans: plane {i} ends behind the block.")
            _unpack(form, packed[at : at + length], plane)
            at += length
        if at != len(packed):
            raise CorruptError(
                f"planes_ans: the block has {len(packed)} bytes, its header says {at}."
            )
        _ans.kernels().join(planes, target)


def _packed(plane: Array) -> tuple[int, bytes | memoryview]:
    """Return the form of a plane and its bytes, which may be the plane itself."""
    sample = plane
    if plane.size > _SAMPLE:  # eight stretches
        starts = np.linspace(0, plane.size - _SAMPLE // 8, 8).astype(int).tolist()
        sample = np.concatenate([plane[at : at + _SAMPLE // 8] for at in starts])
    if plane.size and (sample == plane[0]).all() and (plane == plane[0]).all():
        return _CONSTANT, plane[:1].tobytes()
    press = _ans.compressor(LEVEL)
    zstd = press.compress(sample.data)
    ans = _entropy(sample)
    if min(len(zstd), ans) >= _NOISE / 8 * sample.size:
        return _STORED, plane.data
    if len(zstd) < _WINS * ans:
        form, part = _ZSTD, zstd if sample is plane else press.compress(plane.data)
    else:
        form, part = _ANS, _coded(plane)
    return (form, part) if len(part) < plane.size else (_STORED, plane.data)


def _entropy(sample: Array) -> float:
    """Return about how many bytes rANS makes of these."""
    counts = _ans.kernels().histogram(sample, sample.size)
    shares = counts[counts > 0] / max(sample.size, 1)
    bits = -float((shares * np.log2(shares)).sum())
    return bits / 8 * sample.size


def _coded(plane: Array) -> bytes:
    count = plane.size - plane.size % LANES
    tail = plane[count:].tobytes()
    if not count:
        return tail
    model = _ans.fitted_to(_ans.kernels().histogram(plane, count))
    states, words = _ans.coded(plane, _ans.no_contexts(count), model, count)
    tables = _ans.packed(model)
    return b"".join((_CODED.pack(len(words) // 2, len(tables)), tables, states, words, tail))


def _unpack(form: int, part: memoryview, plane: Array) -> None:
    match form:
        case 0 if len(part) == plane.size:  # _STORED
            plane[:] = np.frombuffer(part, np.uint8)
        case 1 if len(part) == 1:  # _CONSTANT
            plane[:] = part[0]
        case 2:  # _ZSTD
            plane[:] = np.frombuffer(unpressed(part, plane.size), np.uint8)
        case 3:  # _ANS
            _decoded(part, plane)
        case _:
            raise CorruptError(f"planes_ans: a plane of form {form} cannot have {len(part)} bytes.")


def _decoded(part: memoryview, plane: Array) -> None:
    count = plane.size - plane.size % LANES
    end = len(part) - (plane.size - count)
    if end < _CODED.size:
        raise CorruptError("planes_ans: a plane ends in its header.")
    plane[count:] = np.frombuffer(part[end:], np.uint8)
    words, tables = _CODED.unpack_from(part)
    at = _CODED.size + tables
    if at + _ans.STATES_BYTES + 2 * words != end or not count:
        raise CorruptError("planes_ans: a plane's header and its size disagree.")
    model = _ans.model_from(part[_CODED.size : at], 1)
    states = np.frombuffer(part[at : at + _ans.STATES_BYTES], "<u4").copy()
    coded = _ans.words_of(part[at + _ans.STATES_BYTES : end])
    even = _ans.kernels().decode(count, model, coded, words, states, plane)
    if not even or (states != STATE).any():
        raise CorruptError("planes_ans: a plane does not come out even.")


PLUGIN = PlanesAns()
