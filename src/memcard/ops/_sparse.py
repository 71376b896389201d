"""What the methods share that drop a part of each change: trimming, dropping, and adding up the rest.

Sources: Yadav et al. 2023, "TIES-Merging", arXiv:2306.01708 (trim, elect, merge); Yu et al. 2023,
"Language models are super Mario", arXiv:2311.03099 (drop and rescale).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import cast

import numpy as np

from memcard.maths.deltas import elect, keep_before, sample, total, weigh, zero_unless
from memcard.maths.floats import Double
from memcard.maths.random import below, key
from memcard.maths.select import Cut, Keys, keys_of, select
from memcard.ops._deltas import Piece, Whole
from memcard.recipes.nodes import Params


def kept(share: float, count: int) -> int:
    """Return how many of ``count`` values a share is: rounded down, but one at least."""
    return min(count, max(1, int(share * count))) if share > 0 else 0


def largest(whole: Whole, ranks: Sequence[int]) -> list[tuple[Cut, ...]]:
    """Return, for each fine-tune, one cut per rank: it keeps so many of the largest changes."""
    changes = len(whole.inputs.weights)
    wanted = [(column, rank) for column in range(changes) for rank in ranks]
    found = iter(find(whole, sizes, wanted))
    return [tuple(next(found) for _ in ranks) for _ in range(changes)]


def sizes(deltas: Sequence[Double]) -> list[Keys]:
    """Return the keys of the magnitudes; the changes are spent."""
    return [keys_of(np.abs(d, out=d)) for d in deltas]


def find(
    whole: Whole,
    columns: Callable[[list[Double]], Sequence[Keys]],
    ranks: Sequence[tuple[int, int]],
) -> list[Cut]:
    """Return a cut for each (column, rank); ``columns`` makes keys of changes."""

    def scan() -> Iterator[tuple[int, Sequence[Keys]]]:
        for start, deltas in whole.blocks():
            yield start, columns(deltas)

    hint = sample(whole.read, whole.inputs.dtypes, whole.count, columns)
    return select(scan, ranks, whole.count, hint)


def trim(piece: Piece, cut: Sequence[Cut]) -> None:
    """Put zero where a change ranks behind the cut of its fine-tune."""
    for delta, one in zip(piece.deltas, cut, strict=True):
        keep_before(delta, piece.start, one)


def drop(piece: Piece) -> None:
    """Keep each value with probability ``density``, and divide it by that if ``rescale``.

    Which ones are kept depends on the seed, the tensor's name, the number of the input and the
    position of the value only.
    """
    share, seed = cast("float", piece.params["density"]), cast("int", piece.params["seed"])
    for delta, stream in zip(piece.deltas, piece.inputs.streams, strict=True):
        keep = below(key(seed, piece.step.name, stream), piece.start, share, delta.size)
        zero_unless(keep, delta)
        if piece.params["rescale"] and 0 < share < 1:
            np.divide(delta, share, out=delta)


def blend(piece: Piece, *, agreeing: bool) -> Double:
    """Add the changes, times their weights; only those of the elected sign if ``agreeing``."""
    weights, mean = piece.inputs.weights, bool(piece.params["normalize"])
    if agreeing:
        return elect(piece.deltas, weights, mean=mean)
    weigh(piece.deltas, weights)
    out = total(piece.deltas)
    return np.divide(out, sum(weights), out=out) if mean else out


def zero_sum(params: Params) -> str:
    """Say that ``normalize`` would divide by zero; "" if not."""
    weights = cast("tuple[float, ...]", params["weights"]) or (1.0,)
    if not params["normalize"] or None in weights or sum(weights) != 0:
        return ""
    return "weights: they add up to 0, which cannot be divided by. Set normalize to false."
