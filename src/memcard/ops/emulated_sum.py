"""A weighted sum in the arithmetic of another program: for merges that someone else has made.

``memcard discover`` finds the style that gives a merge's very bits. To make a merge of your own take
``weighted_average`` or ``add_difference``, which round once.

Source: ``maths/emulate.py`` names the programs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, cast

from memcard.errors import UsageError
from memcard.maths.emulate import CHANGES, STYLES, emulate
from memcard.maths.floats import stored
from memcard.ops._pairs import DTYPE
from memcard.ops._tensorwise import TensorWise, target
from memcard.recipes.nodes import Params, Step
from memcard.recipes.op import Param


class EmulatedSum(TensorWise):
    """Inputs: a and b and so on; for the styles of changes a, b and what b came from."""

    title = "Weighted sum, as another program computes it"
    source = "https://github.com/pytorch/pytorch, ATen/native/cpu"
    params: ClassVar[Mapping[str, Param]] = {
        "weights": Param("floats", (), "one number per input; of a change, one number"),
        "style": Param("str", "float32", "where it rounds", choices=tuple(STYLES)),
        "dtype": DTYPE,
    }
    arity = (1, None)

    def check(self, count: int, params: Params) -> None:
        """Refuse weights that do not fit the style."""
        weights, style = cast("tuple[float, ...]", params["weights"]), params["style"]
        if style in CHANGES:
            right, most = (
                len(weights) == 1 and count in (2, 3),
                "one weight and two or three inputs",
            )
        elif style == "lerp":
            right, most = len(weights) == count == 2, "two inputs and a weight for each"
        else:
            right, most = len(weights) == count, "one weight per input"
        if not right or None in weights:
            raise UsageError(
                f"emulated_sum: {style} takes {most}; there are {len(weights)} weights and {count} inputs."
            )

    def apply(
        self, step: Step, parts: Sequence[memoryview], params: Params, out: memoryview, start: int
    ) -> int:
        """Compute one chunk."""
        arrays = [stored(p, dtype) for p, dtype in zip(parts, step.detail, strict=True)]
        weights = cast("tuple[float, ...]", params["weights"])
        return emulate(arrays, weights, str(params["style"]), target(step, out))


PLUGIN = EmulatedSum()
