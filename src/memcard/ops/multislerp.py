"""Spherical average of any number of models, in one step on the tangent plane.

Unit directions u_i with weights w_i: m = normalised sum of w_i u_i; their parts perpendicular to m are
averaged to v; the result is (cos|v| m + sin|v| v / |v|) times the weighted mean of the lengths. Cheaper
than ``karcher`` and the same for directions that lie close together.

Source: Goddard, https://goddard.blog/posts/multislerp-wow-what-a-cool-idea; mergekit 0.1.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from memcard.errors import UsageError
from memcard.maths.floats import Double
from memcard.maths.sphere import multislerp_weights
from memcard.ops._pairs import DTYPE
from memcard.ops._sphere import TASK_VECTORS, Spherical, models
from memcard.ops._tensorwise import per_input
from memcard.recipes.nodes import Params
from memcard.recipes.op import Param


class MultiSlerp(Spherical):
    """Inputs: models; or base, models with ``task_vectors``."""

    title = "Multi-SLERP"
    source = "https://goddard.blog/posts/multislerp-wow-what-a-cool-idea"
    params: ClassVar[Mapping[str, Param]] = {
        "weights": Param("floats", (), "one number per model; none: equal"),
        "normalize": Param("bool", True, "divide the weights by their sum"),
        "task_vectors": TASK_VECTORS,
        "dtype": DTYPE,
    }
    arity = (2, None)

    def check(self, count: int, params: Params) -> None:
        """Ask for two models at least, and a weight for each."""
        number = models(count, params)
        if number < 2:
            raise UsageError("multislerp: one model and a base; give two models at least.")
        per_input("weights", params, number)

    def weights(self, dots: Double, params: Params) -> tuple[float, ...]:
        """Return the coefficient of each model."""
        given = per_input("weights", params, len(dots))
        total = sum(given) if params["normalize"] else 1.0
        return multislerp_weights(dots, [w / total for w in given])


PLUGIN = MultiSlerp()
