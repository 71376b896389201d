"""Weighted average of any number of checkpoints: the classic merge, and model soups.

    W = (w1 W1 + w2 W2 + ...) / (w1 + w2 + ...)

Source: Wortsman et al. 2022, "Model soups", arXiv:2203.05482; the "weighted sum" of A1111.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, cast

import numpy as np

from memcard.core.tensors import Spec, Specs
from memcard.errors import UsageError
from memcard.maths.floats import STORED, combine, stored
from memcard.ops._pairs import (
    DTYPE,
    UNLIKE,
    is_weight,
    narrow_faults,
    pair_faults,
    refuse,
    result_dtype,
)
from memcard.recipes.nodes import Params, Step
from memcard.recipes.op import Param

_KEPT = "not a weight, taken from the first input as it is"


class WeightedAverage:
    """Mixes namesakes in float64 and rounds once; weight 1 gives the input bit for bit."""

    title = "Weighted average"
    source = "arXiv:2203.05482"
    params: ClassVar[Mapping[str, Param]] = {
        "weights": Param("floats", (), "one number per input; none: equal shares"),
        "normalize": Param("bool", True, "divide the weights by their sum"),
        "dtype": DTYPE,
    }
    arity = (1, None)

    def plan(self, inputs: Sequence[Specs], params: Params) -> list[Step]:
        """Match tensors by name. All inputs must have the same names and shapes."""
        weights = shares(len(inputs), params)
        faults = pair_faults(inputs)
        refuse(
            "these checkpoints do not fit together",
            faults,
            UNLIKE,
        )
        steps = [self._step(name, inputs, weights, params) for name in inputs[0]]
        known = [(s.name, [specs[s.name] for specs in inputs]) for s in steps if not s.copy]
        faults = [fault for name, specs in known for fault in narrow_faults(name, specs)]
        refuse("cannot compute", faults, "Cast these tensors first.")
        return steps

    def _step(
        self, name: str, inputs: Sequence[Specs], weights: Sequence[float], params: Params
    ) -> Step:
        specs = [other[name] for other in inputs]
        if not is_weight(name, specs):
            return Step(name, specs[0], ((0, name),), copy=True, note=_KEPT)
        dtype = result_dtype(specs, params)
        # A weight of zero must not turn the other input's infinity into NaN, so it is left out.
        used = tuple((i, w) for i, w in enumerate(weights) if w != 0)
        needs = tuple((i, name) for i, _ in used)
        copy = len(used) == 1 and used[0][1] == 1.0 and specs[used[0][0]].dtype == dtype
        detail = tuple((specs[i].dtype, w) for i, w in used)
        return Step(name, Spec(dtype, specs[0].shape), needs, copy=copy, detail=detail)

    def apply(
        self, step: Step, parts: Sequence[memoryview], params: Params, out: memoryview, start: int
    ) -> int:
        """Mix one chunk."""
        arrays = [stored(p, dtype) for p, (dtype, _) in zip(parts, step.detail, strict=True)]
        target = np.frombuffer(out, STORED[step.spec.dtype.name])
        return combine(arrays, [w for _, w in step.detail], target)


def shares(count: int, params: Params) -> tuple[float, ...]:
    """Return one weight per input, divided by their sum if asked.

    Raises:
        UsageError: the number of weights is wrong, or they cannot be normalised.
    """
    given = cast("tuple[float, ...]", params["weights"]) or (1.0,) * count
    if len(given) != count or None in given:
        raise UsageError(f"weights: {len(given)} given for {count} inputs; give one for each.")
    if not any(given):
        raise UsageError("weights: all are zero; at least one must not be.")
    if not params["normalize"]:
        return given
    total = sum(given)
    if total <= 0:
        raise UsageError(
            f"weights: they add up to {total:g}, which cannot be made 1. "
            "Set normalize to false to use them as they are."
        )
    return tuple(w / total for w in given)


PLUGIN = WeightedAverage()
