"""``by_block`` for methods that look at the whole model before they merge any of it, such as ``cosine_add``.

The whole model is what the method merges: tensors that a rule keeps are not looked at. Where settings
differ by block, each of them is as if it held for all of it, so one survey serves all blocks whose
settings differ in nothing the survey looks at.

Source: docs/spec/recipe.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from memcard.ops._by_block import ByBlock, Inner
from memcard.recipes.nodes import Params, Step
from memcard.recipes.op import Param, Reader


class SurveyedByBlock(ByBlock):
    """Hands the tensors that are merged to the method all together, then block by block."""

    surveys: ClassVar[bool] = True
    title = "Merge block by block after a look at the whole model"
    source = "docs/spec/recipe.md"
    surveyed: ClassVar[tuple[str, ...]] = ("method", "settings", "rules")
    params: ClassVar[Mapping[str, Param]] = {
        **ByBlock.params,
        "method": Param("str", "cosine_add", "the operation that merges"),
    }

    def survey(
        self, steps: Sequence[Step], reader: Callable[[Step], Reader], params: Params
    ) -> Mapping[str, Any]:
        """Let the method survey, once for all settings it looks at."""
        inner: dict[str, Inner] = {step.name: step.detail for step in steps}
        outer = {step.name: step for step in steps}
        found: dict[str, Any] = {}
        seen: dict[tuple[Any, ...], Mapping[str, Any]] = {}
        for name, (op, _, settings) in inner.items():
            looked_at = tuple(settings[key] for key in op.surveyed)
            if looked_at not in seen:
                every = [one.step for one in inner.values()]
                seen[looked_at] = op.survey(every, lambda s: reader(outer[s.name]), settings)
            found[name] = seen[looked_at][name]
        return found


PLUGIN = SurveyedByBlock()
