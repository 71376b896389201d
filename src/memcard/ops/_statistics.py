"""Inputs that come in two halves: models, then one file of statistics for each, in the same order.

A statistics file has a tensor for each weight it knows something about, under the weight's name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from memcard.core.tensors import DType, Specs
from memcard.errors import UsageError
from memcard.maths.floats import Array, stored
from memcard.ops._pairs import pair_faults
from memcard.ops._tensorwise import TensorWise
from memcard.recipes.nodes import Params, Step

_UNKNOWN = "no statistics for it, averaged"


class WithStatistics(TensorWise):
    """An average that follows statistics where there are some, and is plain elsewhere.

    Attributes:
        with_statistics: the second half of the inputs are no models.
        what: the statistics are, for people.
    """

    with_statistics: ClassVar[bool] = True
    arity: tuple[int, int | None] = (4, None)
    what: ClassVar[str] = "statistics"

    def check(self, count: int, params: Params) -> None:
        """Ask for as many statistics as models."""
        if count % 2:
            raise UsageError(
                f"{self.title}: {count} inputs; give the models first, then one file of "
                f"{self.what} for each, in the same order."
            )

    def faults(self, inputs: Sequence[Specs]) -> list[str]:
        """Compare the models, then the statistics with them."""
        half = len(inputs) // 2
        models, statistics = inputs[:half], inputs[half:]
        faults = pair_faults(models)
        for name in dict.fromkeys(name for specs in statistics for name in specs):
            if name not in models[0]:
                faults.append(f"{name!r}: in the {self.what}, not in the models")
                continue
            wanted = self.shape(models[0][name].shape)
            for i, specs in enumerate(statistics, half + 1):
                if name not in specs:
                    faults.append(f"{name!r}: not in input {i}, but in other {self.what}")
                elif specs[name].shape != wanted:
                    found = list(specs[name].shape)
                    faults.append(f"{name!r}: {found} in input {i}, {list(wanted)} is wanted")
        return faults

    def shape(self, weight: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of a weight's statistics."""
        return weight

    def step(self, name: str, inputs: Sequence[Specs], params: Params) -> Step:
        """Plan one tensor; ``detail`` is the dtypes of the models and those of the statistics."""
        half = len(inputs) // 2
        made = super().step(name, inputs[:half], params)
        if made.copy:
            return made
        if name not in inputs[half]:
            detail: tuple[tuple[DType, ...], ...] = (made.detail, ())
            return Step(name, made.spec, made.needs, detail=detail, note=_UNKNOWN)
        more = tuple((i, name) for i in range(half, len(inputs)))
        detail = (made.detail, tuple(inputs[i][name].dtype for i, _ in more))
        if self.whole:
            return Step(name, made.spec, made.needs, more, whole=made.whole, detail=detail)
        return Step(name, made.spec, made.needs + more, detail=detail)


def split(step: Step, parts: Sequence[memoryview]) -> tuple[list[Array], list[Array]]:
    """View what was read as the models' values and the statistics'."""
    models, statistics = step.detail
    half = len(models)
    return (
        [stored(p, dtype) for p, dtype in zip(parts[:half], models, strict=True)],
        [stored(p, dtype) for p, dtype in zip(parts[half:], statistics, strict=True)],
    )
