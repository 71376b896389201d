"""Pass every tensor through untouched; the recipe behind ``convert``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from memcard.core.tensors import Specs
from memcard.recipes.nodes import Params, Step
from memcard.recipes.op import Param


class Identity:
    """Copies bytes; never decodes them."""

    title = "Identity"
    source = "every tensor as it is; docs/spec/recipe.md"
    params: ClassVar[Mapping[str, Param]] = {}
    arity = (1, 1)

    def plan(self, inputs: Sequence[Specs], params: Params) -> list[Step]:
        """Promise every input tensor unchanged."""
        return [Step(name, spec, ((0, name),), copy=True) for name, spec in inputs[0].items()]

    def apply(
        self, step: Step, parts: Sequence[memoryview], params: Params, out: memoryview, start: int
    ) -> int:
        """Hand the one input on."""
        out[:] = parts[0]
        return 0


PLUGIN = Identity()
