"""Mix two models column by column: where they point the same way, the result keeps A; elsewhere it takes B.

    W = k A + (1 - k) B,  k = clip((s - low) / (high - low) - alpha, 0, 1),  s = (cos + whole) / 2

``cos`` is the cosine of a column of A and of B (along the first dimension); ``whole`` that of the whole tensors.
``low`` and ``high`` are the 1st and 99th percentile of the similarities in **all** tensors, so the model is read
once before it is mixed. With mode A ("A's structure with details of B") ``whole`` is of tensors whose columns were
brought to length 1 and the percentiles are of ``cos``; with mode B both are of the weights as they are, and the
percentiles of s. The VAE stays A's. sd-mecha's methods of this name use no percentiles: another result.

Source: hako-mikan/sd-webui-supermerger, "cosineA" and "cosineB".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from memcard.core.tensors import Specs
from memcard.maths.floats import BLOCK, Array, encode, stored
from memcard.maths.sphere import column_dots, rows
from memcard.ops._pairs import DTYPE
from memcard.ops._tensorwise import TensorWise, number, target, views
from memcard.recipes.nodes import Params, Step
from memcard.recipes.op import Param, Reader

_KEPT = ("first_stage_model.", "vae.")
_NOTE = "part of the VAE, taken from the first input as it is"
_LEAST = 1e-8  # norms below it count as this


class CosineAdd(TensorWise):
    """Inputs: A, B. Keeps 8 bytes per column of all tensors, some 30 MB for SDXL."""

    title = "Cosine add (whole model)"
    source = "https://github.com/hako-mikan/sd-webui-supermerger, cosineA and cosineB"
    params: ClassVar[Mapping[str, Param]] = {
        "mode": Param("str", "A", "whose structure to keep", choices=("A", "B")),
        "alpha": Param("float", 0.0, "how much further to go to the second input", 0, 1),
        "dtype": DTYPE,
    }
    arity = (2, 2)
    surveyed: ClassVar[tuple[str, ...]] = ("mode",)

    def step(self, name: str, inputs: Sequence[Specs], params: Params) -> Step:
        """Ask for whole rows, after a look at the whole model."""
        made = super().step(name, inputs, params)
        if name.startswith(_KEPT):
            return Step(name, inputs[0][name], ((0, name),), copy=True, note=_NOTE)
        if made.copy or not made.spec.elements:
            return made
        shape = made.spec.shape
        return replace(made, block=made.spec.elements // (shape[0] if shape else 1), measure=True)

    def survey(
        self, steps: Sequence[Step], reader: Callable[[Step], Reader], params: Params
    ) -> Mapping[str, Array]:
        """Return A's share in each column of each tensor, before ``alpha`` is taken off."""
        similar, counted = {}, []
        for step in steps:
            dots = column_dots(views(step, reader(step)), step.spec.elements, step.block)
            cosines, similar[step.name] = similarities(dots, by_column=params["mode"] == "A")
            counted.append(cosines if params["mode"] == "A" else similar[step.name])
        low, high = _limits(np.concatenate(counted)) if counted else (0.0, 0.0)
        width = high - low
        if width <= 0:  # all alike: nothing to go by but alpha
            return {name: np.ones_like(s) for name, s in similar.items()}
        return {name: (s - low) / width for name, s in similar.items()}

    def apply(
        self, step: Step, parts: Sequence[memoryview], params: Params, out: memoryview, start: int
    ) -> int:
        """Mix some rows."""
        arrays = [stored(p, dtype) for p, dtype in zip(parts, step.detail, strict=True)]
        into, bad = target(step, out), 0
        piece = max(1, BLOCK // step.block) * step.block
        with np.errstate(all="ignore"):
            share = np.clip(step.stats - number(params, "alpha"), 0.0, 1.0)
            for at in range(0, into.size, piece):
                a, b, _ = rows([array[at : at + piece] for array in arrays], step.block)
                made = share * a + (1.0 - share) * b
                bad += encode(made.reshape(-1), into[at : at + piece])
        return bad


def similarities(dots: Array, *, by_column: bool) -> tuple[Array, Array]:
    """Return the cosine of each column, and its mean with the cosine of the whole tensors.

    Args:
        dots: ``column_dots`` of the two.
        by_column: the whole tensors are those with every column brought to length 1.
    """
    with np.errstate(all="ignore"):
        norms = np.maximum(np.sqrt(dots[:2]), _LEAST)
        cosines = np.asarray(dots[2] / norms[0] / norms[1])
        if by_column:
            lengths = np.count_nonzero(dots[:2], axis=1)
            whole: Any = cosines.sum() / max(1.0, float(np.sqrt(lengths.prod(dtype=np.float64))))
        else:
            sizes = np.maximum(np.sqrt(dots[:2].sum(axis=1)), _LEAST)
            whole = dots[2].sum() / sizes[0] / sizes[1]
        return cosines, np.asarray((cosines + whole) / 2.0)


def _limits(values: Array) -> tuple[float, float]:
    """Return the least and largest value once 1 % at each end are cut off; NaN is left out."""
    values = values[~np.isnan(values)]
    if not values.size:
        return 0.0, 0.0
    values = values[values >= np.percentile(values, 1, method="midpoint")]
    values = values[values <= np.percentile(values, 99, method="midpoint")]
    return float(values.min()), float(values.max())


PLUGIN = CosineAdd()
