"""Keep a model within bounds that other models set, weight by weight.

    W = min(max(A, low), high),  low and high: the smallest and the largest of the bounds

With ``stiffness`` s the bounds move towards their middle: high = (1-s) largest + s (the smallest one not below
the mean), low alike.

Source: sd-mecha 1.1.8, clamp.
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


class Clamp(ElementWise):
    """Inputs: A, then two or more models as bounds."""

    title = "Clamp between models"
    source = "sd-mecha 1.1.8, clamp"
    params: ClassVar[Mapping[str, Param]] = {
        "stiffness": Param("float", 0.0, "how far the bounds move towards their middle", 0, 1),
        "dtype": DTYPE,
    }
    arity = (3, None)

    def formula(self, values: Sequence[Double], params: Params) -> Double:
        """Cut off what lies outside."""
        model, *bounds = values
        stack = np.stack(bounds)
        high, low = stack.max(axis=0), stack.min(axis=0)
        stiffness = number(params, "stiffness")
        if stiffness:
            mean = stack.mean(axis=0)
            above = np.where(stack >= mean, stack, high).min(axis=0)
            below = np.where(stack <= mean, stack, low).max(axis=0)
            high = (1.0 - stiffness) * high + stiffness * above
            low = (1.0 - stiffness) * low + stiffness * below
        made: Double = np.minimum(np.maximum(model, low), high)
        return made


PLUGIN = Clamp()
