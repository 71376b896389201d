"""DARE: drop most of each change at random, make up for it, and add the rest to the base.

    mi = di / density with probability density, else 0
    W  = W0 + lambda * (w1 m1 + w2 m2 + ...)

The random numbers are the values' own (seed, tensor, input, position), so that a merge can be
repeated; a library's generator would depend on the order of the work.

Source: Yu et al. 2023, "Language models are super Mario", arXiv:2311.03099. ``rescale`` divides by the
density as the paper does; mergekit's matches the L1 norm instead.
"""

from __future__ import annotations

from memcard.maths.floats import Double
from memcard.ops._deltas import DeltaMethod, Piece
from memcard.ops._sparse import DARE, blend, drop, zero_sum


def dare_linear(piece: Piece) -> Double:
    """Return the weighted sum of what is kept of the changes."""
    drop(piece)
    return blend(piece, agreeing=False)


PLUGIN = DeltaMethod(
    title="DARE, linear",
    source="arXiv:2311.03099",
    own=DARE,
    mix=dare_linear,
    check=zero_sum,
)
