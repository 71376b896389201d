"""TIES: trim small changes, elect a sign for each weight, average the changes that agree.

    ti = di where |di| is among the k largest of its tensor, else 0;  k = floor(density * n), at least 1
    s  = 1 where w1 t1 + w2 t2 + ... >= 0, else -1
    W  = W0 + lambda * (sum of wi ti where ti has the sign s) / (sum of these wi)

Equal magnitudes at the threshold: those with the lower index are kept, so exactly k are. Without
``normalize`` nothing is divided.

Source: Yadav et al. 2023, "TIES-Merging", arXiv:2306.01708, Algorithm 1; a sum of 0 elects plus, as in
mergekit and PEFT.
"""

from __future__ import annotations

from memcard.maths.floats import Double
from memcard.maths.select import Cut
from memcard.ops._deltas import (
    WEIGHTS,
    DeltaMethod,
    Piece,
    Simple,
    Whole,
    density,
    each,
    normalize,
)
from memcard.ops._sparse import blend, kept, largest, trim


def thresholds(whole: Whole) -> list[Cut]:
    """Return the cut of each fine-tune."""
    shares = each("density", whole.inputs, whole.params)
    return [cut for (cut,) in largest(whole, [[kept(s, whole.count)] for s in shares])]


def ties(piece: Piece) -> Double:
    """Return the mean of those trimmed changes that agree."""
    trim(piece, piece.step.stats)
    return blend(piece, agreeing=True)


PLUGIN = DeltaMethod(
    title="TIES",
    source="arXiv:2306.01708",
    own={"weights": WEIGHTS, "density": density(0.2), "normalize": normalize(default=True)},
    mix=ties,
    measure_whole=thresholds,
    simple=Simple(agreeing=True, trims=True),
)
