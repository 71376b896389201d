"""Put the tensors of a delta of mode "replace" in place of the base's.

Source: docs/spec/recipe.md. That the base is the one the delta was made from is for the caller to
check (``memcard.delta.base_sha256``); a plan sees names and shapes only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from memcard.core.tensors import Specs
from memcard.ops._pairs import refuse
from memcard.recipes.nodes import Params, Step
from memcard.recipes.op import Param


class Overlay:
    """Inputs: base, delta. Order and names are the base's; nothing is decoded."""

    title = "Overlay a delta on its base"
    source = "docs/spec/recipe.md, deltas of mode replace"
    params: ClassVar[Mapping[str, Param]] = {}
    arity = (2, 2)

    def plan(self, inputs: Sequence[Specs], params: Params) -> list[Step]:
        """Take each tensor from the delta where it has one."""
        base, delta = inputs
        faults = [f"{name!r}: not in the base" for name in delta if name not in base]
        faults += [
            f"{name!r}: {base[name]} in the base, {spec} in the delta"
            for name, spec in delta.items()
            if name in base and base[name].shape != spec.shape
        ]
        refuse("this delta is not for this base", faults, "Use the base it was made from.")
        return [
            Step(name, delta[name], ((1, name),), copy=True)
            if name in delta
            else Step(name, spec, ((0, name),), copy=True)
            for name, spec in base.items()
        ]

    def apply(
        self, step: Step, parts: Sequence[memoryview], params: Params, out: memoryview, start: int
    ) -> int:
        """Hand the one part on."""
        out[:] = parts[0]
        return 0


PLUGIN = Overlay()
