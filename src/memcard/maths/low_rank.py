"""Adding changes to weights row by row, in an order that no chunking and no thread count changes.

A matrix product of a BLAS adds in an order that depends on shapes, threads and processor. So the
product is a loop of outer products over the rank, one fixed sequence of operations for each value;
unless it can be shown that no order rounds at all, which holds for most files of 16-bit factors and
lets the BLAS do the same in a tenth of the time. Once there is enough of it, a compiled loop does that
sequence for a tile of the weight at once, faster still: ``maths/_lora_kernels.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, cast

import numpy as np

from memcard.maths.floats import BLOCK, PRECISION, Array, decode, encode, scratch
from memcard.maths.rounding import compiled

# Values the compiled loop may read after the end of ``down``; what they are does not matter.
SPARE = 64
# Scratch arrays of the compiled loop, one of each for every product, far from each other.
_UPRIGHT, _DOWN = -1_000_000, -2_000_000


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


@dataclass(frozen=True)
class LowRank:
    """``scale * up @ down``; up is [rows, rank], down [rank, columns].

    Attributes:
        up: float64.
        down: float64.
        scale: of the product.
        dtypes: what the values of both were stored as; None where they have been computed.
    """

    up: Array
    down: Array
    scale: float
    dtypes: tuple[str, str] | None = None

    @cached_property
    def exact(self) -> bool:
        """Whether ``up @ down`` is free of rounding: ``adds_exactly``."""
        return self.dtypes is not None and adds_exactly(self.up, self.down, self.dtypes)

    @property
    def multiplies_exactly(self) -> bool:
        """Whether all products of two values are float64s; not so for sums of them."""
        if self.dtypes is None:
            return False
        one, two = (PRECISION[dtype] for dtype in self.dtypes)
        whole, least = PRECISION["F64"]
        return one[0] + two[0] <= whole and one[1] + two[1] >= least

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
class SingleLowRank:
    """``scale * up @ down`` in float32, as a script with PyTorch on a CPU computes it.

    A BLAS adds the products of a value one by one, each without rounding the product (a fused multiply-add),
    as long as the rank is no larger than one of its blocks. Found by comparing with PyTorch 2.13 on x86-64, matrices
    of 77 x 33 to 1280 x 640: no value differs at ranks 1 to 128; at rank 200 most do, in the last bit.

    Attributes:
        up: [rows, rank], float64 that hold float32.
        down: [rank, columns], likewise.
        scale: of the product; rounded to float32 first.
    """

    up: Array
    down: Array
    scale: float

    def fill(self, first: int, last: int, out: Array, term: Array) -> None:
        """Write rows of the product, each value one of float32."""
        out[:] = 0.0
        narrow = np.empty(out.shape, np.float32)
        for k in range(self.up.shape[1]):
            np.multiply(self.up[first:last, k : k + 1], self.down[k], out=term)  # exact
            np.add(out, term, out=narrow, casting="unsafe")
            out[:] = narrow
        if self.scale != 1:
            np.multiply(narrow, np.float32(self.scale), out=narrow)
            out[:] = narrow


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
    rows = -(-(start + out.size) // columns)
    windows = [d if isinstance(d, Window) else Window(d, 0, rows) for d in deltas]
    if _compiled(windows, weight, out):
        return _by_loops(weight, windows, out, columns, start)
    bad, at = 0, 0
    most = max(1, BLOCK // columns) * columns
    with np.errstate(all="ignore"):
        while at < out.size:
            into_row = (start + at) % columns
            stop = min(out.size, at + most - into_row)
            total = scratch(0, stop - at, np.float64)
            decode(weight[at:stop], total)
            for window in windows:
                _add(window, total, columns, start + at)
            bad += encode(total, out[at:stop])
            at = stop
    return bad


def _add(window: Window, total: Array, columns: int, start: int) -> None:
    """Add what of a change falls on ``total``, whose first value is number ``start``."""
    stop = start + total.size
    low, high = start // columns, -(-stop // columns)
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
    if isinstance(window.delta, SingleLowRank):
        into[:] = into.astype(np.float32)  # before it is rounded to a narrower dtype


def _compiled(windows: Sequence[Window], weight: Array, out: Array) -> bool:
    """Tell whether the compiled loops know how, and there is enough to do."""
    products = [window.delta for window in windows if isinstance(window.delta, LowRank)]
    if len(products) < len(windows) or weight.dtype != out.dtype or not out.size:
        return False
    # Each term of a product takes numpy as long as rounding a value does.
    if compiled(out.size * (1 + sum(len(product.down) for product in products))) is None:
        return False
    from memcard.maths import _lora_kernels as loops

    return loops.knows([out])


def _by_loops(
    weight: Array, windows: Sequence[Window], out: Array, columns: int, start: int
) -> int:
    from memcard.maths import _lora_kernels as loops

    deltas = [cast("LowRank", window.delta) for window in windows]
    downs = [_followed(delta.down, i) for i, delta in enumerate(deltas)]
    bad = 0
    for row, rows, first, width in _rectangles(start, start + out.size, columns, windows):
        terms, exact = [], True
        for i, (window, delta) in enumerate(zip(windows, deltas, strict=True)):
            if window.at <= row < window.at + window.count:
                begin = row - window.at + window.first
                up = loops.upright(delta.up[begin : begin + rows], _UPRIGHT - i)
                terms.append(loops.Term(up, downs[i], delta.scale))
                exact = exact and delta.multiplies_exactly
        at = row * columns + first - start
        part = slice(at, at + (rows - 1) * columns + width)
        place = rows, first, width
        bad += loops.add(weight[part], out[part], columns, place, terms, fused=exact)
    return bad


def _rectangles(
    start: int, stop: int, columns: int, windows: Sequence[Window]
) -> Iterator[tuple[int, int, int, int]]:
    """Cut a run of a matrix into (row, rows, first column, width), none across a window's edge."""
    edges = sorted({edge for w in windows for edge in (w.at, w.at + w.count)})
    while start < stop:
        row, first = divmod(start, columns)
        last = row + 1
        if first == 0 and stop - start >= columns:
            last = min([stop // columns, *(edge for edge in edges if edge > row)])
        width = columns if last > row + 1 else min(columns - first, stop - start)
        yield row, last - row, first, width
        start += (last - row - 1) * columns + width


def _followed(down: Array, place: int) -> Array:
    """Return a matrix that some values may be read after the end of; itself, if that is so."""
    whole = down.base
    if isinstance(whole, np.ndarray) and whole.flags.c_contiguous and down.flags.c_contiguous:
        ends = [a.__array_interface__["data"][0] + a.nbytes for a in (down, whole)]
        if ends[0] + SPARE * 8 <= ends[1]:
            return down
    made = scratch(_DOWN - place, down.size + SPARE, np.float64)[: down.size].reshape(down.shape)
    made[:] = down
    return made


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
