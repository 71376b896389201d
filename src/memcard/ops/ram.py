"""RAM: changes that one model alone makes are added, changes that several make are averaged.

    W = base + sum over models k with |d_k| > epsilon of d_k x (L_k if k is the only one, else 1 / their number)

L_k is 1; with r > 0 (RAM+, tensor-local as in mergekit's ``ramplus_tl``) it is 1 + r min(alpha, S_k / U_k), where
S_k counts the weights of this tensor that model k shares with others and U_k those it changes alone.

Source: "Reinforced Agent Merging", arXiv:2601.13572; mergekit 0.1.5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from memcard.core.tensors import Specs
from memcard.maths.floats import BLOCK, Array, Double, decode, scratch, stored
from memcard.ops._pairs import DTYPE
from memcard.ops._tensorwise import TensorWise, by_pieces, number, target, views
from memcard.recipes.nodes import Params, Step
from memcard.recipes.op import Param, Reader


class Ram(TensorWise):
    """Inputs: base, tuned models."""

    title = "RAM and RAM+"
    source = "arXiv:2601.13572"
    params: ClassVar[Mapping[str, Param]] = {
        "epsilon": Param("float", 1e-5, "a change of this size or less is none", low=0),
        "r": Param("float", 0.0, "RAM+: how much to raise changes that one model makes alone", 0),
        "alpha": Param("float", 0.2, "RAM+: most of the ratio shared / unique that counts", 0),
        "dtype": DTYPE,
    }
    arity = (2, None)
    takes_base: ClassVar[bool] = True

    def step(self, name: str, inputs: Sequence[Specs], params: Params) -> Step:
        """Ask for a first look where weights must be counted."""
        made = super().step(name, inputs, params)
        return made if made.copy or not number(params, "r") else replace(made, measure=True)

    def measure(self, step: Step, read: Reader, params: Params) -> list[float]:
        """Return L_k of one tensor; counts are whole numbers, so no order changes them."""
        shared, alone = np.zeros((2, len(step.needs) - 1), np.int64)
        size, values = step.spec.elements, views(step, read)
        for at in range(0, size, BLOCK):
            masks = _changed(values(at, min(BLOCK, size - at)), number(params, "epsilon"))
            several = np.sum(masks, axis=0) > 1
            for k, mask in enumerate(masks):
                shared[k] += np.count_nonzero(mask & several)
                alone[k] += np.count_nonzero(mask & ~several)
        r, alpha = number(params, "r"), number(params, "alpha")
        pairs = zip(shared.tolist(), alone.tolist(), strict=True)
        # Nothing alone: nothing to raise either, so any L_k is right.
        return [1.0 + r * min(alpha, s / u if u else alpha) for s, u in pairs]

    def apply(
        self, step: Step, parts: Sequence[memoryview], params: Params, out: memoryview, start: int
    ) -> int:
        """Merge one chunk."""
        arrays = [stored(p, dtype) for p, dtype in zip(parts, step.detail, strict=True)]
        epsilon, scales = number(params, "epsilon"), step.stats or [1.0] * (len(arrays) - 1)

        def formula(values: Sequence[Double], _: Params) -> Double:
            return ram(values, epsilon, scales)

        return by_pieces(arrays, formula, params, target(step, out))


def ram(values: Sequence[Double], epsilon: float, scales: Sequence[float]) -> Double:
    """Merge tuned models with the base they come from, which is the first of ``values``.

    Args:
        values: float64, equally long.
        epsilon: a change of this size or less is none.
        scales: one per tuned model, for the changes it makes alone.
    """
    base, *tuned = values
    changes, changed = _changes(base, tuned, epsilon)
    count = np.sum(changed, axis=0)
    total = np.zeros_like(base)
    for change, mask, scale in zip(changes, changed, scales, strict=True):
        part = np.where(count == 1, change * scale, change / np.maximum(count, 1))
        total += np.where(mask, part, 0.0)
    return np.add(base, total, out=total)


def _changes(
    base: Double, tuned: Sequence[Double], epsilon: float
) -> tuple[list[Double], list[Array]]:
    changes: list[Double] = [t - base for t in tuned]
    # NaN is a change: it must show in the result.
    masks: list[Any] = [~(np.abs(change) <= epsilon) for change in changes]
    return changes, masks


def _changed(arrays: Sequence[Array], epsilon: float) -> list[Array]:
    values = [scratch(i, array.size, np.float64) for i, array in enumerate(arrays)]
    for array, value in zip(arrays, values, strict=True):
        decode(array, value)
    with np.errstate(all="ignore"):
        return _changes(values[0], values[1:], epsilon)[1]


PLUGIN = Ram()
