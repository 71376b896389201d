"""What the spherical methods share: dot products of whole tensors, then one weighted sum.

Both are made in pieces, so memory does not grow with the tensors.

Sources: those of ``maths/sphere.py``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from memcard.core.tensors import Specs
from memcard.errors import MismatchError
from memcard.maths.floats import Double, combine, stored
from memcard.maths.sphere import NoDirectionError, gram
from memcard.ops._tensorwise import TensorWise, target, views
from memcard.recipes.nodes import Params, Step
from memcard.recipes.op import Param, Reader

TASK_VECTORS = Param(
    "bool", False, "the first input is the base: average the changes from it, then add them to it"
)


class Spherical(TensorWise, ABC):
    """A method whose result is a sum of its inputs, with weights that follow from dot products."""

    @abstractmethod
    def weights(self, dots: Double, params: Params) -> Sequence[float]:
        """Return one coefficient per model, given the dot products of all pairs."""

    def step(self, name: str, inputs: Sequence[Specs], params: Params) -> Step:
        """Ask for the dot products."""
        made = super().step(name, inputs, params)
        return made if made.copy else replace(made, measure=True)

    def measure(self, step: Step, read: Reader, params: Params) -> Any:
        """Return the coefficient of each input.

        Raises:
            MismatchError: the models cancel each other, so nothing lies between them.
        """
        has_base = bool(params.get("task_vectors", False))
        size, count = step.spec.elements, len(step.needs)
        dots = gram(views(step, read), size, count, from_first=has_base)
        if size == 1:  # a number has no direction to average; parallel ones give the plain mean
            dots = np.ones_like(dots)
        try:
            weights = tuple(self.weights(dots, params))
        except NoDirectionError:
            raise MismatchError(
                f"{step.name!r}: the models cancel each other, no direction lies between them. "
                "Use other weights."
            ) from None
        # base + sum of w (model - base), as a sum of the inputs
        return (1.0 - sum(weights), *weights) if has_base else weights

    def apply(
        self, step: Step, parts: Sequence[memoryview], params: Params, out: memoryview, start: int
    ) -> int:
        """Add up one chunk."""
        arrays = [stored(p, dtype) for p, dtype in zip(parts, step.detail, strict=True)]
        # A weight of zero must not turn an infinity into NaN, so it is left out.
        used = [(a, w) for a, w in zip(arrays, step.stats, strict=True) if w != 0]
        used = used or [(arrays[0], 0.0)]
        return combine([a for a, _ in used], [w for _, w in used], target(step, out))


def models(count: int, params: Params) -> int:
    """Return how many of ``count`` inputs are averaged: all but the base."""
    return count - bool(params["task_vectors"])
