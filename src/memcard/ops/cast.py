"""Round floating-point tensors to another dtype. Lossy where the dtype is narrower.

Source: IEEE 754-2019 §4.3.1, round to nearest, ties to even; bfloat16 and float8 as in ml_dtypes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from memcard.core.tensors import DTYPES, Spec, Specs
from memcard.maths.casting import cast
from memcard.maths.floats import STORED, stored
from memcard.ops._pairs import narrow_faults, refuse
from memcard.recipes.nodes import Params, Step
from memcard.recipes.op import Param


class Cast:
    """Rounds once; integers and tensors that have the dtype already pass through."""

    title = "Cast to another dtype"
    source = "IEEE 754-2019 4.3.1, round to nearest even"
    params: ClassVar[Mapping[str, Param]] = {
        "dtype": Param("str", "F16", "dtype of the result", choices=tuple(STORED)),
    }
    arity = (1, 1)

    def plan(self, inputs: Sequence[Specs], params: Params) -> list[Step]:
        """Give every floating-point tensor the dtype."""
        dtype, faults, steps = DTYPES[str(params["dtype"])], [], []
        for name, spec in inputs[0].items():
            copy = spec.dtype == dtype or not spec.dtype.is_float
            if not copy:
                faults += narrow_faults(name, [spec])
            out = spec if copy else Spec(dtype, spec.shape)
            steps.append(Step(name, out, ((0, name),), copy=copy, detail=spec.dtype))
        refuse("cannot cast", faults, "Convert these tensors with the tool that made them.")
        return steps

    def apply(
        self, step: Step, parts: Sequence[memoryview], params: Params, out: memoryview, start: int
    ) -> int:
        """Round one chunk."""
        loss = cast(stored(parts[0], step.detail), stored(out, step.spec.dtype))
        return loss.overflow + loss.unordered


PLUGIN = Cast()
