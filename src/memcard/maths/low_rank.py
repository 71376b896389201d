"""Adding low-rank products to weights, in an order that no chunking and no thread count changes.

A matrix product of a BLAS adds in an order that depends on shapes, threads and processor. Here the
rank is an explicit loop of outer products, so each value has one fixed sequence of operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from memcard.maths.floats import BLOCK, Array, decode, encode, scratch


@dataclass(frozen=True, slots=True)
class LowRank:
    """``scale * up @ down``; up is [rows, rank], down [rank, columns]."""

    up: Array
    down: Array
    scale: float


def add_low_rank(
    weight: Array, deltas: Sequence[LowRank], out: Array, columns: int, start: int
) -> int:
    """Write ``weight + delta 1 + delta 2 + ...`` in float64, rounded once at the end.

    Args:
        weight: stored floats, a run of a row-major matrix.
        deltas: added from left to right; the factors are float64.
        out: stored floats, as long as ``weight``.
        columns: width of the matrix.
        start: index of the first value of ``weight`` in the matrix.

    Returns:
        How many values written are NaN or infinite.
    """
    bad, at = 0, 0
    most = max(1, BLOCK // columns) * columns
    with np.errstate(all="ignore"):
        while at < out.size:
            into_row = (start + at) % columns
            stop = min(out.size, at + most - into_row)
            total = scratch(0, stop - at, np.float64)
            decode(weight[at:stop], total)
            first, last = (start + at) // columns, -(-(start + stop) // columns)
            for delta in deltas:
                rows = _rows(delta, first, last, columns)
                np.add(total, rows[into_row : into_row + stop - at], out=total)
            bad += encode(total, out[at:stop])
            at = stop
    return bad


def _rows(delta: LowRank, first: int, last: int, columns: int) -> Array:
    size = (last - first) * columns
    total, term = (scratch(i, size, np.float64) for i in (1, 2))
    shaped, addend = total.reshape(-1, columns), term.reshape(-1, columns)
    up = delta.up[first:last]
    np.multiply(up[:, :1], delta.down[0], out=shaped)
    for k in range(1, up.shape[1]):
        np.multiply(up[:, k : k + 1], delta.down[k], out=addend)
        np.add(total, term, out=total)
    np.multiply(total, delta.scale, out=total)
    return total


def tucker(mid: Array, down: Array) -> Array:
    """Return ``einsum("mn..., ni -> mi...")`` as [m, i * k], so that a core becomes a wide down.

    Args:
        mid: [m, n, k], k the product of the kernel's sides.
        down: [n, i].
    """
    total = np.zeros((mid.shape[0], down.shape[1], mid.shape[2]), mid.dtype)
    for n in range(mid.shape[1]):
        total += mid[:, n, None, :] * down[n, None, :, None]
    return total.reshape(mid.shape[0], -1)
