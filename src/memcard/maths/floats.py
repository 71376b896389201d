"""Between stored floats and float64: exact one way, rounded once the other.

numpy converts halves, 0.8 ns a value to float64 and 2.3 ns back. bfloat16 is done here, on the bits.
All of it works in blocks and in arrays that are used again: fresh memory costs more than the work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

# Values per inner block: two float64 arrays of them just fill a 1 MiB second-level cache.
BLOCK = 1 << 16

# Magnitudes from which rounding gives infinity (NaN in E4M3, which has none), half a step above
# the largest value.
_LIMITS: Mapping[str, float] = {
    "float64": np.inf,
    "float32": 2.0**128 - 2.0**103,
    "bfloat16": 2.0**128 - 2.0**119,
    "float16": 65520.0,
    "float8_e4m3fn": 464.0,
    "float8_e5m2": 61440.0,
}

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
    if values.dtype != STORED["BF16"]:
        np.copyto(out, values, casting="unsafe")
        return
    single = scratch(-1, values.size, np.float32)
    wide = single.view(np.uint32)
    np.copyto(wide, values.view("<u2"))
    np.left_shift(wide, 16, out=wide)
    np.copyto(out, single)


@np.errstate(over="ignore", invalid="ignore")  # what overflows is counted
def encode(values: Double, out: Array) -> int:
    """Round float64 to the dtype of ``out``, once, to nearest even; ``values`` are spent.

    Returns:
        How many values of ``out`` are NaN or infinite.
    """
    name = out.dtype.name
    finite = _peak(values) < _LIMITS[name]
    if name not in ("float64", "float32", "float16"):  # ml_dtypes goes through float32
        _round_to_odd(values)
    if name == "bfloat16" and finite:
        _encode_brain(values, out.view("<u2"))
    else:
        np.copyto(out, values, casting="unsafe")
    if finite:
        return 0
    return int(out.size - np.count_nonzero(np.isfinite(out)))


def _peak(values: Array) -> float:
    """Return the largest magnitude; infinite if there is a NaN."""
    peak = float(max(values.max(initial=0), -values.min(initial=0)))
    return np.inf if np.isnan(peak) else peak


def _round_to_odd(values: Double) -> None:
    """Cut float64 to the precision of float32, the last bit saying whether anything was cut off.

    Rounding that to 16 bits or fewer gives what rounding the float64 itself gives; rounding to
    float32 in the ordinary way first would round twice. Source: Boldo, Melquiond 2008, "Emulation
    of FMA and correctly rounded sums: proved algorithms using rounding to odd".
    """
    bits, sticky = values.view(np.uint64), scratch(-2, values.size, np.uint64)
    np.bitwise_and(bits, _CUT, out=sticky)
    np.add(sticky, _CUT, out=sticky)  # carries into bit 29 unless all bits were zero
    np.bitwise_or(bits, sticky, out=bits)
    np.bitwise_and(bits, ~_CUT, out=bits)


def _encode_brain(values: Double, out: Array) -> None:
    """Round to bfloat16 on the bits; ml_dtypes would keep other threads waiting meanwhile."""
    single, half = (scratch(i, values.size, d) for i, d in ((-1, np.float32), (-3, np.uint32)))
    np.copyto(single, values, casting="unsafe")
    bits = single.view(np.uint32)
    np.right_shift(bits, 16, out=half)
    np.bitwise_and(half, np.uint32(1), out=half)
    np.add(half, np.uint32(0x7FFF), out=half)  # rounds up above the middle, and at it if odd
    np.add(bits, half, out=bits)
    np.right_shift(bits, 16, out=bits)
    np.copyto(out, bits, casting="unsafe")


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
