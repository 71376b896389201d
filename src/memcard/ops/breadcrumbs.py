"""Model Breadcrumbs: drop the largest changes as outliers and the smallest as noise.

    bi = di where |di| has one of the ranks g + 1 to g + k of its tensor, else 0
    W  = W0 + lambda * (w1 b1 + w2 b2 + ...)

Rank 1 is the largest magnitude, equal ones rank by index; k = floor(density * n), at least 1, and
g = floor(gamma * n), but never so many that fewer than k are left. With ``elect`` only the changes that
have the sign of the sum are added (Breadcrumbs with TIES).

Source: Davari, Belilovsky 2023, "Model Breadcrumbs", arXiv:2312.06795.
"""

from __future__ import annotations

from memcard.maths.deltas import magnitudes, zero_unless
from memcard.maths.floats import Double
from memcard.maths.select import Cut, before, keys_of
from memcard.ops._deltas import WEIGHTS, DeltaMethod, Piece, Whole, density, each, normalize
from memcard.ops._sparse import blend, kept, largest, zero_sum
from memcard.recipes.nodes import Params
from memcard.recipes.op import Param


def band(whole: Whole) -> list[tuple[Cut, ...]]:
    """Return for each fine-tune the cut behind the outliers and the one before the noise."""
    shares, gammas = (each(k, whole.inputs, whole.params) for k in ("density", "gamma"))
    ranks = []
    for share, gamma in zip(shares, gammas, strict=True):
        count = kept(share, whole.count)
        outliers = min(int(gamma * whole.count), whole.count - count)
        ranks.append((outliers, outliers + count))
    return largest(whole, ranks)


def breadcrumbs(piece: Piece) -> Double:
    """Return the weighted sum of the changes of middling size."""
    for delta, (outliers, noise) in zip(piece.deltas, piece.step.stats, strict=True):
        keys = keys_of(magnitudes(delta))
        keep = before(keys, piece.start, noise)
        keep &= ~before(keys, piece.start, outliers)
        zero_unless(keep, delta)
    return blend(piece, agreeing=bool(piece.params["elect"]))


def _check(params: Params) -> str:
    return "" if params["elect"] else zero_sum(params)


PLUGIN = DeltaMethod(
    title="Model Breadcrumbs",
    source="arXiv:2312.06795",
    own={
        "weights": WEIGHTS,
        "density": density(0.9),
        "gamma": Param("each", 0.01, "share of the largest changes to drop; as density", 0.0, 1.0),
        "elect": Param("bool", False, "add only the changes that have the sign of the sum"),
        "normalize": normalize(default=False),
    },
    mix=breadcrumbs,
    measure_whole=band,
    check=_check,
)
