"""Add difference: carry what a fine-tune has learnt over to another model of the same base.

    W = A + lambda * (B - C)

Inputs: C (the base of B), A (the model to change), B (the fine-tune).

Source: the "add difference" of AUTOMATIC1111's checkpoint merger; arXiv:2212.04089 calls it an analogy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, cast

import numpy as np

from memcard.core.tensors import Spec, Specs
from memcard.maths.deltas import blocks
from memcard.maths.floats import decode, encode, stored
from memcard.ops._deltas import KEPT, LAMBDA, refuse_dtypes, refuse_pairs
from memcard.ops._pairs import DTYPE, is_weight, result_dtype
from memcard.recipes.nodes import Params, Step
from memcard.recipes.op import Param


class AddDifference:
    """Adds in float64 and rounds once; lambda = 0 gives A bit for bit."""

    title = "Add difference"
    source = "A1111 checkpoint merger; arXiv:2212.04089"
    params: ClassVar[Mapping[str, Param]] = {"lambda": LAMBDA, "dtype": DTYPE}
    arity = (3, 3)
    takes_base = True

    def plan(self, inputs: Sequence[Specs], params: Params) -> list[Step]:
        """Match tensors by name. All inputs must have the same names and shapes."""
        refuse_pairs(inputs)
        steps = [self._step(name, inputs, params) for name in inputs[1]]
        refuse_dtypes(inputs, steps)
        return steps

    def _step(self, name: str, inputs: Sequence[Specs], params: Params) -> Step:
        specs = [other[name] for other in inputs]
        if not is_weight(name, specs):
            return Step(name, specs[1], ((1, name),), copy=True, note=KEPT)
        dtype = result_dtype(specs, params)
        chosen = [1, 0, 2] if params["lambda"] != 0 else [1]
        return Step(
            *(name, Spec(dtype, specs[1].shape), tuple((i, name) for i in chosen)),
            copy=len(chosen) == 1 and specs[1].dtype == dtype,
            detail=tuple(specs[i].dtype for i in chosen),
        )

    def apply(
        self, step: Step, parts: Sequence[memoryview], params: Params, out: memoryview, start: int
    ) -> int:
        """Add one chunk."""
        target, bad = stored(out, step.spec.dtype), 0
        changed, scale = stored(parts[0], step.detail[0]), cast("float", params["lambda"])
        with np.errstate(all="ignore"):
            for at, origin, deltas in blocks(parts[1:] or parts, step.detail[1:] or step.detail):
                end = at + origin.size
                decode(changed[at:end], origin)  # the base has done its work
                for delta in deltas:
                    np.add(origin, np.multiply(delta, scale, out=delta), out=origin)
                bad += encode(origin, target[at:end])
        return bad


PLUGIN = AddDifference()
