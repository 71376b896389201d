"""Changes as they are stored, base and fine-tune: searched and merged without widening them first.

The compiled loops of ``maths/_merge_kernels.py`` where there are some; else what ``maths/deltas.py`` has.
The bits are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from memcard.core.tensors import DType
from memcard.maths.deltas import blocks, subtract
from memcard.maths.floats import Array, decode, scratch, stored
from memcard.maths.rounding import compiled
from memcard.maths.select import TOP, Column, Cut, Keys, keys_of

_BASE, _SIZE = 34, 35  # numbers of scratch arrays


@dataclass(frozen=True, slots=True)
class Sizes:
    """Keys of the magnitudes of a fine-tune's changes, looked through as they are stored."""

    base: Array
    tuned: Array

    def sift(self, low: int, high: int) -> tuple[NDArray[np.int64], Keys, int]:
        """Look for keys within bounds, as ``select.Unmade`` has it."""
        from memcard.maths import _merge_kernels as loops

        return loops.sift(self.base, self.tuned, low, high)

    def keys(self) -> Keys:
        """Make all of them."""
        size = self.base.size
        base, change = (scratch(place, size, np.float64) for place in (_BASE, _SIZE))
        decode(self.base, base)
        subtract(self.tuned, base, change)
        return keys_of(np.abs(change, out=change))


def sizes(
    parts: Sequence[memoryview], dtypes: Sequence[DType]
) -> Iterator[tuple[int, Sequence[Column]]]:
    """Yield (first value, for each fine-tune the keys of its changes) of a run, block by block.

    Args:
        parts: the base, then the fine-tunes; as many values each.
        dtypes: one per part.
    """
    base, *tuned = (stored(p, d) for p, d in zip(parts, dtypes, strict=True))
    if _by_merge_kernels([base, *tuned]):
        yield 0, [Sizes(base, values) for values in tuned]
        return
    for at, _, deltas in blocks(parts, dtypes):
        yield at, [keys_of(np.abs(d, out=d)) for d in deltas]


def _by_merge_kernels(arrays: Sequence[Array]) -> bool:
    """Tell whether there are compiled loops over these stored values, and whether they pay."""
    if compiled(arrays[0].size) is None:
        return False
    from memcard.maths import _merge_kernels as loops

    return loops.knows(arrays)


def merge(
    arrays: Sequence[Array],
    cuts: Sequence[Cut],
    weights: Sequence[float],
    out: Array,
    *,
    start: int,
    scale: float,
    agreeing: bool,
    mean: bool,
) -> int | None:
    """Trim, add up and round a run in one go, if there are compiled loops for it; else None.

    The bits are those of ``keep_before``, ``elect`` or ``total``, and ``encode``, one after the other.

    Args:
        arrays: stored floats: the base, then the fine-tunes.
        cuts: one per fine-tune.
        weights: one per fine-tune.
        out: stored floats to fill.
        start: index of the first value.
        scale: what the merged change is multiplied by.
        agreeing: add only the changes that have the sign of the sum of all.
        mean: divide by the sum of the weights of those added.

    Returns:
        How many of the values written are NaN or infinite.
    """
    if any(cut.key == TOP for cut in cuts) or not _by_merge_kernels([*arrays, out]):
        return None
    from memcard.maths import _merge_kernels as loops

    if len(weights) > loops.MOST:
        return None
    how, bad = loops.Mix(agreeing, mean), 0
    borders = {min(max(cut.last + 1 - start, 0), out.size) for cut in cuts}
    for low, high in pairwise(sorted(borders | {0, out.size})):  # thresholds are constant there
        keys = [cut.key + (start + low > cut.last) for cut in cuts]
        run = [a[low:high] for a in arrays]
        bad += loops.merge(run, keys, weights, scale, out[low:high], how)
    return bad
