"""Karcher mean: the direction whose squared angles to all models have the least weighted sum.

Found by walking: average the models' directions on the plane that touches the sphere where one stands,
go there along the arc, until the steps are short. The length is the weighted mean of the lengths.

Source: Karcher 1977, "Riemannian center of mass and mollifier smoothing"; arXiv:2603.04972; mergekit 0.1.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from memcard.maths.floats import Double
from memcard.maths.sphere import karcher_weights
from memcard.ops._pairs import DTYPE
from memcard.ops._sphere import Spherical
from memcard.ops._tensorwise import number, per_input
from memcard.recipes.nodes import Params
from memcard.recipes.op import Param


class Karcher(Spherical):
    """Inputs: models."""

    title = "Karcher mean"
    source = "Karcher 1977; arXiv:2603.04972"
    params: ClassVar[Mapping[str, Param]] = {
        "weights": Param("floats", (), "one number per model; none: equal", low=0),
        "max_iter": Param("int", 10, "most steps of the walk", 0, 1000),
        "tol": Param("float", 1e-5, "a step shorter than this many radians is the last", 0, 1),
        "dtype": DTYPE,
    }
    arity = (2, None)

    def check(self, count: int, params: Params) -> None:
        """Ask for a weight for each model."""
        per_input("weights", params, count)

    def weights(self, dots: Double, params: Params) -> tuple[float, ...]:
        """Return the coefficient of each model."""
        given = per_input("weights", params, len(dots))
        share = [w / sum(given) for w in given]
        steps, tol = int(number(params, "max_iter")), number(params, "tol")
        return karcher_weights(dots, share, max_iter=steps, tol=tol)


PLUGIN = Karcher()
