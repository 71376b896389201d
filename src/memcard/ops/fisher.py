"""Fisher merging: average each weight by how sure each model is of it.

    W = sum w_i F_i W_i / sum w_i F_i

F_i is the diagonal of model i's Fisher information: the mean of squared gradients of the log-likelihood, one
number per weight, in a file with the model's names and shapes. Weights without one are averaged plainly.

Source: Matena, Raffel 2022, "Merging Models with Fisher-Weighted Averaging", arXiv:2111.09832.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from memcard.maths.floats import Double
from memcard.ops._pairs import DTYPE
from memcard.ops._statistics import WithStatistics, split
from memcard.ops._tensorwise import by_pieces, number, per_input, target
from memcard.recipes.nodes import Params, Step
from memcard.recipes.op import Param


class Fisher(WithStatistics):
    """Inputs: models, then the Fisher file of each."""

    title = "Fisher merging"
    source = "arXiv:2111.09832"
    params: ClassVar[Mapping[str, Param]] = {
        "weights": Param("floats", (), "one number per model; none: equal", low=0),
        "floor": Param("float", 1e-6, "least Fisher information that counts; above 0", 1e-300),
        "dtype": DTYPE,
    }
    what: ClassVar[str] = "Fisher information"

    def check(self, count: int, params: Params) -> None:
        """Ask for a statistics file and a weight for each model."""
        super().check(count, params)
        per_input("weights", params, count // 2)

    def apply(
        self, step: Step, parts: Sequence[memoryview], params: Params, out: memoryview, start: int
    ) -> int:
        """Average one chunk."""
        models, information = split(step, parts)
        given = per_input("weights", params, len(models))
        floor = number(params, "floor") if information else 1.0

        def formula(values: Sequence[Double], _: Params) -> Double:
            return fisher(values[: len(models)], values[len(models) :], given, floor)

        return by_pieces([*models, *information], formula, params, target(step, out))


def fisher(
    models: Sequence[Double], information: Sequence[Double], weights: Sequence[float], floor: float
) -> Double:
    """Average ``models`` by weight times Fisher information, which is at least ``floor``.

    Args:
        models: float64, equally long.
        information: as many, or none: all alike.
        weights: as many.
        floor: above 0, so that what no model is sure of is averaged plainly.
    """
    total, share = np.zeros_like(models[0]), np.zeros_like(models[0])
    for i, (model, weight) in enumerate(zip(models, weights, strict=True)):
        if weight == 0:
            continue  # its infinities must not become NaN
        sure = np.maximum(information[i], floor) if information else np.full_like(model, floor)
        sure *= weight
        total += sure * model
        share += sure
    return np.divide(total, share, out=total)


PLUGIN = Fisher()
