"""Weighted geometric mean of two models: small weights win over large ones.

    W = Re(A^(1-alpha) B^alpha) = |A|^(1-alpha) |B|^alpha cos(pi ((1-alpha) [A < 0] + alpha [B < 0]))

Equal signs stay; where the signs differ the cosine shrinks the value, to 0 at alpha = 1/2.

Source: sd-mecha 1.1.8, geometric_sum (the real part of complex powers).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import cos, pi
from typing import ClassVar

import numpy as np

from memcard.maths.floats import Double
from memcard.ops._pairs import DTYPE
from memcard.ops._tensorwise import ElementWise, number
from memcard.recipes.nodes import Params
from memcard.recipes.op import Param


class Geometric(ElementWise):
    """Inputs: A, B."""

    title = "Geometric mean"
    source = "sd-mecha 1.1.8, geometric_sum"
    params: ClassVar[Mapping[str, Param]] = {
        "alpha": Param("float", 0.5, "0 gives the first input, 1 the second", 0, 1),
        "dtype": DTYPE,
    }
    arity = (2, 2)

    def formula(self, values: Sequence[Double], params: Params) -> Double:
        """Multiply powers; the sign follows from the two signs."""
        a, b = values
        alpha = number(params, "alpha")
        if alpha in (0.0, 1.0):
            return b if alpha else a
        made: Double = np.power(np.abs(a), 1.0 - alpha) * np.power(np.abs(b), alpha)
        one = np.where(b < 0, cos(pi * alpha), 1.0)
        other = np.where(b < 0, -1.0, cos(pi * (1.0 - alpha)))
        return np.multiply(made, np.where(a < 0, other, one), out=made)


PLUGIN = Geometric()
