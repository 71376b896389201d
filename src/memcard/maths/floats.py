"""Between stored floats and the floats one computes with; exact one way, rounded once the other.

The 16-bit conversions work on the bit patterns with whole-array integer instructions: numpy's own
half conversion takes 1.4 and 1.7 ns per value, this 0.3 and 0.8 (benchmarks/merge.py). They are
exact for finite values; blocks with NaN, infinity or overflow go through numpy, which knows them.

Source of the rounding trick: M. Dukhan, FP16 (github.com/Maratyszcza/FP16), fp16.h, MIT.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from threading import local
from typing import Any, TypeAlias

import numpy as np
from ml_dtypes import bfloat16, float8_e4m3fn, float8_e5m2
from numpy.typing import NDArray

from memcard.core.tensors import DType

Double: TypeAlias = NDArray[np.float64]
Array: TypeAlias = NDArray[Any]

STORED: Mapping[str, Any] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(bfloat16),
    "F8_E4M3": np.dtype(float8_e4m3fn),
    "F8_E5M2": np.dtype(float8_e5m2),
}

# Bits of a fraction, the leading one included; and k, where all values are multiples of 2^k.
PRECISION: Mapping[str, tuple[int, int]] = {
    "F64": (53, -1074),
    "F32": (24, -149),
    "F16": (11, -24),
    "BF16": (8, -133),
    "F8_E4M3": (4, -9),
    "F8_E5M2": (3, -16),
}

# Values per inner block: 4 arrays of fp32 stay in a 1 MiB second-level cache.
BLOCK = 1 << 16

_CUT = np.uint64((1 << 29) - 1)  # the bits that float64 has beyond float32
_local = local()


def can_compute(dtype: DType) -> bool:
    """Tell whether arithmetic knows this dtype."""
    return dtype.name in STORED


def scratch(place: int, size: int, dtype: Any) -> Array:
    """Return this thread's array number ``place``; its values are left over from earlier use."""
    arrays: dict[tuple[int, Any], Array] = _local.__dict__.setdefault("arrays", {})
    key = place, np.dtype(dtype)
    if key not in arrays or len(arrays[key]) < size:
        arrays[key] = np.empty(max(size, BLOCK), dtype)
    return arrays[key][:size]


def stored(part: memoryview, dtype: DType) -> Array:
    """View bytes as values of the stored dtype."""
    return np.frombuffer(part, STORED[dtype.name])


def decode(values: Array, out: Double) -> None:
    """Widen stored floats to float64; exact."""
    if values.dtype.name in _NARROW:
        single = scratch(-3, values.size, np.float32)
        if values.dtype == STORED["F16"]:
            _decode_half(values.view("<i2"), single)
        else:
            _decode_brain(values.view("<u2"), single)
        np.copyto(out, single)
    else:
        np.copyto(out, values, casting="unsafe")


def encode(values: Double, out: Array) -> int:
    """Round float64 to the dtype of ``out``, once, to nearest even; ``values`` are spent.

    Returns:
        How many values of ``out`` are NaN or infinite.
    """
    if out.dtype.itemsize >= 4:
        np.copyto(out, values, casting="unsafe")
        return _count(out) if _peak(out) == np.inf else 0
    _round_to_odd(values)
    single = scratch(-3, values.size, np.float32)
    np.copyto(single, values, casting="unsafe")
    limit, narrow = _NARROW.get(out.dtype.name, (0.0, None))
    if narrow and _peak(single) < limit:
        narrow(single, out.view("<u2"))
        return 0
    with np.errstate(over="ignore", invalid="ignore"):
        np.copyto(out, single, casting="unsafe")
    return _count(out)


def _peak(values: Array) -> float:
    """Return the largest magnitude; infinite if there is a NaN."""
    peak = max(values.max(initial=0), -values.min(initial=0))
    return float(peak) if peak == peak else np.inf  # false for NaN only


def _count(values: Array) -> int:
    with np.errstate(invalid="ignore"):
        return int(values.size - np.count_nonzero(np.isfinite(values)))


def _round_to_odd(values: Double) -> None:
    """Cut float64 to the precision of float32, the last bit saying whether anything was cut off.

    Rounding that to 16 bits or fewer gives what rounding the float64 itself gives; rounding to
    float32 in the ordinary way first would round twice. Source: Boldo, Melquiond 2008, "Emulation
    of FMA and correctly rounded sums: proved algorithms using rounding to odd".
    """
    bits, sticky = values.view(np.uint64), scratch(-4, values.size, np.uint64)
    np.bitwise_and(bits, _CUT, out=sticky)
    np.add(sticky, _CUT, out=sticky)  # carries into bit 29 unless all bits were zero
    np.bitwise_or(bits, sticky, out=bits)
    np.bitwise_and(bits, ~_CUT, out=bits)


def _decode_brain(bits: Array, out: Array) -> None:
    wide = out.view(np.uint32)
    np.copyto(wide, bits)
    np.left_shift(wide, 16, out=wide)


def _decode_half(bits: Array, out: Array) -> None:
    wide = out.view(np.int32)
    np.copyto(wide, bits)  # with the sign bit repeated to the left
    np.left_shift(wide, 13, out=wide)
    np.bitwise_and(wide, np.int32(-0x70002000), out=wide)  # 0x8FFFE000: one sign bit, rest
    np.multiply(out, np.float32(2.0**112), out=out)  # the bias; makes subnormals right as well
    if out.size and max(out.max(), -out.min()) >= 65536:  # infinity and NaN came out finite
        np.copyto(out, bits.view("<f2"))


def _encode_half(values: Array, out: Array) -> None:
    """Round float32 of less than 65520 to half: adding 2^k so that the unwanted bits fall off."""
    size = values.size
    bits, magnitude = values.view(np.uint32), scratch(-1, size, np.float32)
    bias = scratch(-2, size, np.uint32)
    np.bitwise_and(bits, np.uint32(0x7F800000), out=bias)
    np.maximum(bias, np.uint32(0x38800000), out=bias)  # 2^-14: below, halves are subnormal
    np.add(bias, np.uint32(0x07800000), out=bias)
    np.absolute(values, out=magnitude)
    np.multiply(magnitude, np.float32(4), out=magnitude)
    np.add(magnitude, bias.view(np.float32), out=magnitude)
    rounded = magnitude.view(np.uint32)
    np.right_shift(rounded, 13, out=bias)
    np.bitwise_and(bias, np.uint32(0x7C00), out=bias)
    np.bitwise_and(rounded, np.uint32(0x0FFF), out=rounded)
    np.add(rounded, bias, out=rounded)
    np.right_shift(bits, 16, out=bits)
    np.bitwise_and(bits, np.uint32(0x8000), out=bits)
    np.bitwise_or(rounded, bits, out=rounded)
    np.copyto(out, rounded, casting="unsafe")


def _encode_brain(values: Array, out: Array) -> None:
    bits, half = values.view(np.uint32), scratch(-2, values.size, np.uint32)
    np.right_shift(bits, 16, out=half)
    np.bitwise_and(half, np.uint32(1), out=half)
    np.add(half, np.uint32(0x7FFF), out=half)  # rounds up above the middle, and at it if odd
    np.add(bits, half, out=bits)
    np.right_shift(bits, 16, out=bits)
    np.copyto(out, bits, casting="unsafe")


# The largest value that may go through each trick: above it, the result is infinite.
_NARROW: Mapping[str, tuple[float, Callable[[Array, Array], None]]] = {
    "float16": (65520.0, _encode_half),
    "bfloat16": (float(np.uint32(0x7F7F8000).view(np.float32)), _encode_brain),
}


def combine(parts: Sequence[Array], weights: Sequence[float], out: Array) -> int:
    """Write ``sum of weights[i] * parts[i]`` in float64 from left to right, rounded once.

    Args:
        parts: stored floats, all as long as ``out``; of one or of several dtypes.
        weights: one per part.
        out: stored floats.

    Returns:
        How many values written are NaN or infinite.
    """
    bad = 0
    with np.errstate(all="ignore"):
        for at in range(0, out.size, BLOCK):
            piece = out[at : at + BLOCK]
            total, term = (scratch(i, piece.size, np.float64) for i in range(2))
            for i, (part, weight) in enumerate(zip(parts, weights, strict=True)):
                into = term if i else total
                decode(part[at : at + BLOCK], into)
                np.multiply(into, weight, out=into)
                if i:
                    np.add(total, term, out=total)
            bad += encode(total, piece)
    return bad
