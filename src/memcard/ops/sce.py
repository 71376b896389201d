"""SCE: select where the fine-tunes differ most, calculate their weights, erase what disagrees.

    v  = variance of d1, d2, ... for each weight
    ti = di where v is among the k largest of its tensor, else 0;  k = floor(select_topk * m), m of v > 0
    ci = mean of ti^2 over the tensor, divided by the sum of these means
    s  = 1 where t1 + t2 + ... >= 0, else -1
    W  = W0 + lambda * (sum of ci ti where ti has the sign s) / (sum of these ci)

With ``select_topk`` = 1 all are selected. If no change is left, all ci are equal.

Source: Wan et al. 2024, "FuseChat", arXiv:2408.07990, §3.3. mergekit agrees, except that it takes equal
weights already where the means add up to less than 1e-6.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np

from memcard.maths.deltas import dot, elect, total, zero_unless
from memcard.maths.floats import Double
from memcard.maths.select import EVERYTHING, Cut, Keys, before, keys_of
from memcard.ops._deltas import DeltaMethod, Piece, Whole
from memcard.ops._sparse import find
from memcard.recipes.op import Param


@dataclass(frozen=True, slots=True)
class Found:
    """What is selected, by its variance, and the weights of the fine-tunes."""

    cut: Cut
    weights: tuple[float, ...]


def spread(deltas: list[Double]) -> list[Keys]:
    """Return the keys of the variances."""
    mean = total(deltas)
    np.divide(mean, len(deltas), out=mean)
    out = np.zeros_like(mean)
    for delta in deltas:
        apart = delta - mean
        np.multiply(apart, apart, out=apart)
        np.add(out, apart, out=out)
    return [keys_of(np.divide(out, len(deltas), out=out))]


def found(whole: Whole) -> Found:
    """Select, then weigh what is selected."""
    share, cut = cast("float", whole.params["select_topk"]), EVERYTHING
    if share < 1:
        differing = sum(int(np.count_nonzero(spread(d)[0])) for _, d in whole.blocks())
        (cut,) = find(whole, spread, [(0, int(share * differing))])
    squares = [0.0] * len(whole.inputs.weights)
    for start, deltas in whole.blocks():
        select(deltas, start, cut)
        squares = [s + dot(d, d) for s, d in zip(squares, deltas, strict=True)]
    everything, even = sum(squares), 1 / len(squares)
    return Found(cut, tuple(s / everything if everything else even for s in squares))


def select(deltas: list[Double], start: int, cut: Cut) -> None:
    """Put zero where the variance is behind the cut."""
    if cut == EVERYTHING:
        return
    (keys,) = spread(deltas)
    keep = before(keys, start, cut)
    for delta in deltas:
        zero_unless(keep, delta)


def sce(piece: Piece) -> Double:
    """Return the weighted mean of the selected changes that agree."""
    chosen: Found = piece.step.stats
    select(piece.deltas, piece.start, chosen.cut)
    return elect(piece.deltas, chosen.weights, mean=True, equal_votes=True)


PLUGIN = DeltaMethod(
    title="Select, calculate, erase (SCE)",
    source="arXiv:2408.07990",
    own={"select_topk": Param("float", 1.0, "share of the weights to select", 0.0, 1.0)},
    mix=sce,
    measure_whole=found,
)
