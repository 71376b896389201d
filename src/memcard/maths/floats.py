"""Between stored floats and float64: exact one way, rounded once the other.

Two ways with the same bits, as in ``maths/rounding.py``, where the way back is too: numpy at first, which
takes 0.8 ns to widen a half, and compiled loops once a process has seen enough values for making them to
pay. All of it works in blocks and in arrays that are used again: fresh memory costs more than the work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_dtypes import bfloat16, float8_e4m3fn, float8_e5m2

from memcard.core.tensors import DType
from memcard.maths.rounding import BLOCK, Array, Double, compiled, round_to, scratch

__all__ = ["BLOCK", "PRECISION", "STORED", "Array", "Double", "can_compute", "combine", "decode",
           "encode", "scratch", "stored"]  # fmt: skip

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


def can_compute(dtype: DType) -> bool:
    """Tell whether arithmetic knows this dtype."""
    return dtype.name in STORED


def stored(part: memoryview, dtype: DType) -> Array:
    """View bytes as values of the stored dtype."""
    return np.frombuffer(part, STORED[dtype.name])


def decode(values: Array, out: Double) -> None:
    """Widen stored floats to float64; exact."""
    if values.itemsize == 2 and compiled(values.size) is not None:
        from memcard.maths import _mix_kernels as loops

        loops.widen(np.ascontiguousarray(values), out)
        return
    if values.dtype != STORED["BF16"]:
        np.copyto(out, values, casting="unsafe")
        return
    single = scratch(-1, values.size, np.float32)
    wide = single.view(np.uint32)
    np.copyto(wide, values.view("<u2"))
    np.left_shift(wide, 16, out=wide)
    np.copyto(out, single)


def encode(values: Double, out: Array) -> int:
    """Round float64 to the dtype of ``out``, once, to nearest even; ``values`` are spent.

    Returns:
        How many values of ``out`` are NaN or infinite.
    """
    return round_to(values, out).wild


def combine(parts: Sequence[Array], weights: Sequence[float], out: Array) -> int:
    """Write ``sum of weights[i] * parts[i]`` in float64 from left to right, rounded once.

    Args:
        parts: stored floats, all as long as ``out``; of one or of several dtypes.
        weights: one per part.
        out: stored floats.

    Returns:
        How many values written are NaN or infinite.
    """
    if compiled(out.size) is not None:
        from memcard.maths import _mix_kernels as loops

        if loops.knows([*parts, out]):
            return _by_loops(parts, weights, out)
    return _by_numpy(parts, weights, out)


def _by_loops(parts: Sequence[Array], weights: Sequence[float], out: Array) -> int:
    """Use one loop; for more inputs than it takes, several over blocks, each adding to the last."""
    from memcard.maths import _mix_kernels as loops

    most = loops.MOST
    if len(parts) <= most:
        return loops.mix(parts, weights, out)
    bad = 0
    for at in range(0, out.size, BLOCK):
        piece = out[at : at + BLOCK]
        total, start = scratch(0, piece.size, np.float64), None
        for first in range(0, len(parts), most):
            last = first + most >= len(parts)
            some = [part[at : at + BLOCK] for part in parts[first : first + most]]
            into = piece if last else total
            wild = loops.mix(some, weights[first : first + most], into, start)
            start, bad = total, bad + (wild if last else 0)
    return bad


def _by_numpy(parts: Sequence[Array], weights: Sequence[float], out: Array) -> int:
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
