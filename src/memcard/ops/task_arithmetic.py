"""Task arithmetic: add the changes of several fine-tunes to their base.

    W = W0 + lambda * (w1 d1 + w2 d2 + ...),  di = Wi - W0

With ``normalize`` the sum is divided by w1 + w2 + ….

Source: Ilharco et al. 2022, "Editing models with task arithmetic", arXiv:2212.04089.
"""

from __future__ import annotations

from memcard.maths.floats import Double
from memcard.ops._deltas import WEIGHTS, DeltaMethod, Piece, Simple, normalize
from memcard.ops._sparse import blend, zero_sum


def task_arithmetic(piece: Piece) -> Double:
    """Return the weighted sum of the changes."""
    return blend(piece, agreeing=False)


PLUGIN = DeltaMethod(
    title="Task arithmetic",
    source="arXiv:2212.04089",
    own={"weights": WEIGHTS, "normalize": normalize(default=False)},
    mix=task_arithmetic,
    check=zero_sum,
    simple=Simple(agreeing=False, trims=False),
)
