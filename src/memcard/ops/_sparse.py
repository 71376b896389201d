"""What the methods share that drop a part of each change: trimming, dropping, and adding up the rest.

Sources: Yadav et al. 2023, "TIES-Merging", arXiv:2306.01708 (trim, elect, merge); Yu et al. 2023,
"Language models are super Mario", arXiv:2311.03099 (drop and rescale).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import cast

import numpy as np

from memcard.maths.deltas import elect, keep_before, sample, total, weigh, zero_unless
from memcard.maths.floats import Double
from memcard.maths.random import below, key
from memcard.maths.select import Column, Cut, Keys, keys_of, select
from memcard.maths.stored_deltas import sizes
from memcard.ops._deltas import SEED, WEIGHTS, Piece, Whole, density, each, normalize, rescale
from memcard.recipes.nodes import Params
from memcard.recipes.op import Param

# What dropping at random takes, however the rest is added up.
DARE: Mapping[str, Param] = {
    "weights": WEIGHTS,
    "density": density(0.5, "probability of keeping a value"),
    "rescale": rescale(default=True),
    "normalize": normalize(default=False),
    "seed": SEED,
}


def kept(share: float, count: int) -> int:
    """Return how many of ``count`` values a share is: rounded down, but one at least."""
    return min(count, max(1, int(share * count))) if share > 0 else 0


def largest(whole: Whole, ranks: Sequence[Sequence[int]]) -> list[tuple[Cut, ...]]:
    """Return one cut per rank: it keeps so many of the largest changes.

    Args:
        whole: the tensor.
        ranks: some for each fine-tune.
    """
    wanted = [(column, rank) for column, some in enumerate(ranks) for rank in some]

    def scan() -> Iterator[tuple[int, Sequence[Column]]]:
        for start, parts in whole.runs():
            for at, columns in sizes(parts, whole.inputs.dtypes):
                yield start + at, columns

    cuts = iter(select(scan, wanted, whole.count, _hint(whole, _magnitudes, len(wanted))))
    return [tuple(next(cuts) for _ in some) for some in ranks]


def _magnitudes(deltas: Sequence[Double]) -> list[Keys]:
    return [keys_of(np.abs(d, out=d)) for d in deltas]


def _hint(
    whole: Whole, columns: Callable[[list[Double]], Sequence[Keys]], searches: int
) -> list[Keys]:
    return sample(whole.read, whole.inputs.dtypes, whole.count, columns, searches)


def find(
    whole: Whole,
    columns: Callable[[list[Double]], Sequence[Keys]],
    ranks: Sequence[tuple[int, int]],
) -> list[Cut]:
    """Return a cut for each (column, rank); ``columns`` makes keys of changes."""

    def scan() -> Iterator[tuple[int, Sequence[Keys]]]:
        for start, deltas in whole.blocks():
            yield start, columns(deltas)

    return select(scan, ranks, whole.count, _hint(whole, columns, len(ranks)))


def trim(piece: Piece, cut: Sequence[Cut]) -> None:
    """Put zero where a change ranks behind the cut of its fine-tune."""
    for delta, one in zip(piece.deltas, cut, strict=True):
        keep_before(delta, piece.start, one)


def drop(piece: Piece) -> None:
    """Keep each value with probability ``density``, and divide it by that if ``rescale``.

    Which ones are kept depends on the seed, the tensor's name, the number of the input and the
    position of the value only.
    """
    seed, shares = cast("int", piece.params["seed"]), each("density", piece.inputs, piece.params)
    for delta, stream, share in zip(piece.deltas, piece.inputs.streams, shares, strict=True):
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
