"""Add to A what B learned from C, less where A has already gone as far.

    W = A + 1.8 alpha (B - C) |B - A| / (|B - A| + |B - C|)

A plain add_difference adds B - C everywhere; here the change is small where A is close to B already.

Source: hako-mikan/sd-webui-supermerger, "trainDifference"; sd-mecha 1.1.8, train_difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from memcard.maths.floats import Double
from memcard.ops._pairs import DTYPE
from memcard.ops._tensorwise import ElementWise, number
from memcard.recipes.nodes import Params
from memcard.recipes.op import Param

_STRENGTH = 1.8  # supermerger's factor, found by trial


class TrainDifference(ElementWise):
    """Inputs: base (C), A, B."""

    title = "Train difference"
    source = "https://github.com/hako-mikan/sd-webui-supermerger, trainDifference"
    params: ClassVar[Mapping[str, Param]] = {
        "alpha": Param("float", 1.0, "how much of the change to add"),
        "dtype": DTYPE,
    }
    arity = (3, 3)
    takes_base: ClassVar[bool] = True
    kept: ClassVar[int] = 1

    def formula(self, values: Sequence[Double], params: Params) -> Double:
        """Add the change, scaled value by value."""
        c, a, b = values
        change, away = b - c, np.abs(b - a)
        total = away + np.abs(change)
        share = np.divide(away, total, out=np.zeros_like(total), where=total != 0)
        made: Double = a + (number(params, "alpha") * _STRENGTH) * (share * change)
        return made


PLUGIN = TrainDifference()
