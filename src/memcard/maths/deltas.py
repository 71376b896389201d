"""Changes of fine-tunes from their base, block by block, and what merge methods do with them.

All of it is float64. A change d = W - W0 of 16-bit floats is exact.

Sources: Ilharco et al. 2022, "Editing models with task arithmetic", arXiv:2212.04089; Yadav et al. 2023,
"TIES-Merging", arXiv:2306.01708.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from memcard.core.tensors import DType
from memcard.maths.floats import Array, Double, decode, scratch, stored
from memcard.maths.rounding import compiled
from memcard.maths.select import TOP, Cut, Keys, before, keys_of, sample_size

# Values per inner block. Sums over a tensor are added up block by block, so another size would change
# their last bits. Measured: half of it is a third slower, all of it Python's calls.
BLOCK = 1 << 16
RUN = 1 << 18  # values read at once for statistics, whole blocks; the nearer caches hold them
_PIECES = 16  # places from which values are looked at beforehand

# Numbers of scratch arrays. The changes take as many as there are inputs, so they come last.
_BASE, _MASK, _SIZE, _SUM, _VOTES, _DIVISOR, _DELTA = 20, 21, 22, 23, 24, 25, 100


def blocks(
    parts: Sequence[memoryview], dtypes: Sequence[DType], *, size: int = BLOCK
) -> Iterator[tuple[int, Double, list[Double]]]:
    """Yield (first value, base, changes) of a run; the arrays are used again by the next block.

    Args:
        parts: the base, then the fine-tunes; as many values each.
        dtypes: one per part.
        size: values per block.
    """
    base, *tuned = (stored(p, d) for p, d in zip(parts, dtypes, strict=True))
    for at in range(0, base.size, size):
        count = min(size, base.size - at)
        origin = scratch(_BASE, count, np.float64)
        decode(base[at : at + count], origin)
        deltas = []
        for i, values in enumerate(tuned):
            delta = scratch(_DELTA + i, count, np.float64)
            subtract(values[at : at + count], origin, delta)
            deltas.append(delta)
        yield at, origin, deltas


def subtract(values: Array, base: Double, out: Double) -> None:
    """Write the changes of stored floats from their base."""
    if values.dtype == np.float16 and compiled(values.size) is not None:
        from memcard.maths import _delta_kernels as loops

        loops.change(values, base, out)
        return
    decode(values, out)
    np.subtract(out, base, out=out)


Reader = Callable[[int, int], Sequence[memoryview]]


def tensor(
    read: Reader, dtypes: Sequence[DType], count: int
) -> Iterator[tuple[int, Double, list[Double]]]:
    """Yield the blocks of a whole tensor of ``count`` values."""
    for start in range(0, count, RUN):
        parts = read(start, min(RUN, count - start))
        for at, base, deltas in blocks(parts, dtypes):
            yield start + at, base, deltas


def magnitudes(values: Double) -> Double:
    """Return the magnitudes in an array that the next call uses again."""
    return np.abs(values, out=scratch(_SIZE, values.size, np.float64))


def sample(
    read: Reader,
    dtypes: Sequence[DType],
    count: int,
    columns: Callable[[list[Double]], Sequence[Keys]],
    searches: int,
) -> list[Keys]:
    """Return the keys of values from all over a tensor: 32 Ki, or one in 256, or more for many searches.

    None where a tensor is so small that all its values are kept at once.
    """
    size = sample_size(count, searches) // _PIECES
    found: list[list[Keys]] = []
    for piece in range(_PIECES if size else 0):
        for _, _, deltas in blocks(read(count // _PIECES * piece, size), dtypes):
            found.append([keys.copy() for keys in columns(deltas)])
    return [np.concatenate(column) for column in zip(*found, strict=True)]


def dot(a: Double, b: Double) -> float:
    """Return the sum of the products of one block, added pairwise: the same on any processor.

    numpy's dot and einsum add in an order that depends on the width of the processor's vectors.
    """
    return float(np.add.reduce(np.multiply(a, b, out=scratch(_SIZE, a.size, np.float64))))


def zero_unless(mask: Array, values: Double) -> None:
    """Put +0 where ``mask`` is false, whatever is there, infinities too."""
    wide = scratch(_MASK, values.size, np.int64)
    np.copyto(wide, mask.view(np.int8))
    np.negative(wide, out=wide)
    whole = values.view(np.int64)
    np.bitwise_and(whole, wide, out=whole)


def keep_before(values: Double, start: int, cut: Cut) -> None:
    """Put +0 where a magnitude ranks behind the cut; ``start`` is the index of the first value."""
    if compiled(values.size) is None:
        zero_unless(before(keys_of(magnitudes(values)), start, cut), values)
        return
    from memcard.maths import _delta_kernels as loops

    border = min(max(cut.last + 1 - start, 0), values.size)
    loops.keep(values[:border], cut.key)
    if cut.key < TOP:
        loops.keep(values[border:], cut.key + 1)
    else:
        values[border:] = 0


def total(terms: Sequence[Double]) -> Double:
    """Add from left to right, into an array of its own."""
    out = scratch(_SUM, terms[0].size, np.float64)
    np.copyto(out, terms[0])
    for term in terms[1:]:
        np.add(out, term, out=out)
    return out


def elect(
    terms: Sequence[Double], weights: Sequence[float], *, mean: bool, equal_votes: bool = False
) -> Double:
    """Add those changes, times their weights, that have the sign of the sum of all.

    A sum of zero counts as positive. Zeros have no vote.

    Args:
        terms: the changes; spent.
        weights: one per change.
        mean: divide by the sum of the weights of those that agree, where that is not zero.
        equal_votes: the sign is that of the sum without weights.
    """
    size = terms[0].size
    places = (_VOTES, _SUM, _DIVISOR)
    votes, out, divisor = (scratch(place, size, np.float64) for place in places)
    if compiled(size) is None:
        _by_numpy(terms, weights, (votes, out, divisor), equal_votes=equal_votes)
    else:
        _by_loops(terms, weights, (votes, out, divisor), equal_votes=equal_votes)
    if not mean:
        divisor[:] = 1
    _signed_mean(votes, out, divisor)
    return out


_Sums = tuple[Double, Double, Double]  # votes, sum of what agrees without its sign, divisor


def _by_loops(
    terms: Sequence[Double], weights: Sequence[float], sums: _Sums, *, equal_votes: bool
) -> None:
    from memcard.maths import _delta_kernels as loops

    votes, *into = sums
    for i, (term, weight) in enumerate(zip(terms, weights, strict=True)):
        loops.vote(term, votes, 1.0 if equal_votes else weight, first=i == 0)
    for i, (term, weight) in enumerate(zip(terms, weights, strict=True)):
        scales = (weight if equal_votes else 1.0), weight
        loops.agree(term, votes, (into[0], into[1]), scales, first=i == 0)


def _by_numpy(
    terms: Sequence[Double], weights: Sequence[float], sums: _Sums, *, equal_votes: bool
) -> None:
    votes, out, divisor = sums
    out[:] = divisor[:] = 0
    if not equal_votes:
        weigh(terms, weights)
    votes[:] = 0
    for term in terms:
        np.add(votes, term, out=votes)
    if equal_votes:
        weigh(terms, weights)
    sign = np.where(votes >= 0, 1.0, -1.0)
    for term, weight in zip(terms, weights, strict=True):
        np.multiply(term, sign, out=term)  # what agrees is positive now
        np.add(divisor, np.multiply(term > 0, weight), out=divisor)
        np.add(out, np.maximum(term, 0, out=term), out=out)


def _signed_mean(votes: Double, out: Double, divisor: Double) -> None:
    if compiled(out.size) is not None:
        from memcard.maths import _delta_kernels as loops

        loops.mean(votes, out, divisor)
        return
    np.multiply(out, np.where(votes >= 0, 1.0, -1.0), out=out)
    divisor[divisor == 0] = 1
    np.divide(out, divisor, out=out)


def weigh(terms: Sequence[Double], weights: Sequence[float]) -> None:
    """Multiply each change by its weight, in place."""
    for term, weight in zip(terms, weights, strict=True):
        if weight != 1:
            np.multiply(term, weight, out=term)
