"""Merge some tensors one way and some another: block weights, parts that are kept, names that are missing.

Each rule names tensors and says what becomes of them; the first rule that fits decides. What no rule
names is merged by ``method`` with ``settings``. The arithmetic is that of the method, unchanged.

Source: docs/spec/recipe.md; the idea of a weight per block: bbc-mc 2022, sdweb-merge-block-weighted-gui.
"""

from __future__ import annotations

from typing import Any

from memcard.ops._by_block import ByBlock, Inner
from memcard.recipes.nodes import Params, Step
from memcard.recipes.op import Reader


class Measured(ByBlock):
    """For methods that look at one tensor at a time."""

    def measure(self, step: Step, read: Reader, params: Params) -> Any:
        """Let the method measure."""
        inner: Inner = step.detail
        return inner.op.measure(inner.step, read, inner.settings)


PLUGIN = Measured()
