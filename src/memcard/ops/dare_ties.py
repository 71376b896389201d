"""DARE with TIES: drop most of each change at random, then elect a sign and add what agrees.

    mi = di / density with probability density, else 0
    s  = 1 where w1 m1 + w2 m2 + ... >= 0, else -1
    W  = W0 + lambda * (sum of wi mi where mi has the sign s)

With ``normalize`` that sum is divided by the sum of its wi. The random numbers are those of
``dare_linear``.

Sources: Yu et al. 2023, arXiv:2311.03099; Yadav et al. 2023, arXiv:2306.01708.
"""

from __future__ import annotations

from memcard.maths.floats import Double
from memcard.ops._deltas import DeltaMethod, Piece
from memcard.ops._sparse import DARE, blend, drop


def dare_ties(piece: Piece) -> Double:
    """Return the sum of those kept changes that agree."""
    drop(piece)
    return blend(piece, agreeing=True)


PLUGIN = DeltaMethod(
    title="DARE, TIES",
    source="arXiv:2311.03099, arXiv:2306.01708",
    own=DARE,
    mix=dare_ties,
)
