"""Spherical interpolation of two models, tensor by tensor.

    W = sin((1-t) angle) / sin(angle) A + sin(t angle) / sin(angle) B

The angle is that between A and B as directions. Where they are nearly parallel (|cos| > 0.9995, the
usual case of two fine-tunes of one base) this is A + t (B - A); ``nuslerp`` with ``task_vectors`` is the
method for these. Follows mergekit; sd-mecha's slerp gives another length where A and B have different ones.

Source: Shoemake 1985, "Animating rotation with quaternion curves", SIGGRAPH; mergekit 0.1.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from memcard.maths.floats import Double
from memcard.maths.sphere import slerp_weights
from memcard.ops._pairs import DTYPE
from memcard.ops._sphere import Spherical
from memcard.ops._tensorwise import number
from memcard.recipes.nodes import Params
from memcard.recipes.op import Param


class Slerp(Spherical):
    """Inputs: A, B."""

    title = "SLERP"
    source = "Shoemake 1985, Animating rotation with quaternion curves"
    params: ClassVar[Mapping[str, Param]] = {
        "t": Param("float", 0.5, "0 gives the first input, 1 the second", 0, 1),
        "dtype": DTYPE,
    }
    arity = (2, 2)

    def weights(self, dots: Double, params: Params) -> tuple[float, float]:
        """Return the coefficients of A and B."""
        return slerp_weights(dots, number(params, "t"))


PLUGIN = Slerp()
