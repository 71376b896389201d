"""Adding changes to weights row by row, in an order that no chunking and no thread count changes.

A matrix product of a BLAS adds in an order that depends on shapes, threads and processor. So the
product is a loop of outer products over the rank, one fixed sequence of operations for each value;
unless it can be shown that no order rounds at all, which holds for most files of 16-bit factors and
lets the BLAS do the same in a tenth of the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from memcard.maths.floats import BLOCK, PRECISION, Array, decode, encode, scratch


class Delta(Protocol):
    """A change of a matrix that can be had a few rows at a time."""

    def fill(self, first: int, last: int, out: Array, term: Array) -> None:
        """Write rows ``first`` to ``last`` of the change, float64, the same bits for any range.

        Args:
            first: the first row.
            last: the row after the last.
            out: [last - first, columns], contiguous.
            term: room of the same shape.
        """
        ...


@dataclass(frozen=True, slots=True)
class LowRank:
    """``scale * up @ down``; up is [rows, rank], down [rank, columns]."""

    up: Array
    down: Array
    scale: float
    exact: bool = False  # see ``adds_exactly``

    def fill(self, first: int, last: int, out: Array, term: Array) -> None:
        """Write rows of the product."""
        up = self.up[first:last]
        if self.exact:
            _product(up, self.down, out)
        else:
            np.multiply(up[:, :1], self.down[0], out=out)
            for k in range(1, up.shape[1]):
                np.multiply(up[:, k : k + 1], self.down[k], out=term)
                np.add(out, term, out=out)
            np.add(out, 0.0, out=out)  # nothing but -0 adds up to +0, as in a BLAS that starts at 0
        np.multiply(out, self.scale, out=out)


@dataclass(frozen=True, slots=True)
class Window:
    """A change of some rows of a matrix: rows from ``first`` on go to ``count`` rows at ``at``.

    A module's weight may be a part of a fused tensor, such as the query in query, key and value.
    """

    delta: Delta
    at: int
    count: int
    first: int = 0


def add_low_rank(
    weight: Array, deltas: Sequence[Delta | Window], out: Array, columns: int, start: int
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
            for delta in deltas:
                _add(delta, total, columns, start + at)
            bad += encode(total, out[at:stop])
            at = stop
    return bad


def _add(delta: Delta | Window, total: Array, columns: int, start: int) -> None:
    """Add what of a change falls on ``total``, whose first value is number ``start``."""
    stop = start + total.size
    low, high = start // columns, -(-stop // columns)
    window = delta if isinstance(delta, Window) else Window(delta, 0, high)
    low, high = max(low, window.at), min(high, window.at + window.count)
    shift = window.first - window.at
    if low >= high:
        return
    size = (high - low) * columns
    rows, term = (scratch(i, size, np.float64) for i in (1, 2))
    shape = high - low, columns
    window.delta.fill(low + shift, high + shift, rows.reshape(shape), term.reshape(shape))
    first, last = max(start, low * columns), min(stop, high * columns)
    into = total[first - start : last - start]
    np.add(into, rows[first - low * columns : last - low * columns], out=into)


def dense(delta: Delta, rows: int, columns: int) -> Array:
    """Return a whole change, [rows, columns] float64; the bits of ``fill``."""
    made = np.empty((rows, columns))
    height = max(1, BLOCK // max(1, columns))
    term = np.empty((height, columns))
    with np.errstate(all="ignore"):
        for row in range(0, rows, height):
            last = min(rows, row + height)
            delta.fill(row, last, made[row:last], term[: last - row])
    return made


def _product(up: Array, down: Array, out: Array) -> None:
    """Multiply in tiles so small that OpenBLAS does not start threads of its own.

    They would wait for each other in a loop: on two busy cores 20 s for a Stable Diffusion 1.5 LoRA
    of rank 32 instead of 0.8 s. Its limit is rows * columns * rank = 2^18 (interface/gemm.c).
    """
    width = 256
    height = max(1, (1 << 18) // (width * up.shape[1]))
    for row in range(0, len(up), height):
        for column in range(0, down.shape[1], width):
            tile = slice(row, row + height), slice(column, column + width)
            np.matmul(up[tile[0]], down[:, tile[1]], out=out[tile])


def adds_exactly(up: Array, down: Array, stored: tuple[str, str]) -> bool:
    """Tell whether ``up @ down`` in float64 is free of rounding, whatever the order of adding.

    All products are multiples of 2^k, k from the lowest bits the factors can have; if no partial sum
    can reach 2^(k + 53), every one of them is a float64.

    Args:
        up: [rows, rank], float64.
        down: [rank, columns], float64.
        stored: names of the dtypes the factors come from.
    """
    lowest = sum(_lowest_bit(a, dtype) for a, dtype in zip((up, down), stored, strict=True))
    bound = float((np.abs(up) @ np.abs(down).max(axis=1)).max())
    return lowest > -1000 and 1.01 * bound < 2.0 ** (lowest + 53)  # the bound itself is rounded


def _lowest_bit(values: Array, dtype: str) -> int:
    """Return k such that all values are multiples of 2^k."""
    bits, subnormal = PRECISION[dtype]
    smallest = np.min(np.abs(values), initial=1.0, where=values != 0)
    return max(int(np.frexp(smallest)[1]) - bits, subnormal)


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
