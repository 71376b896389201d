"""Take a tuned model's weight only where it matters most; keep the base elsewhere.

    score = |tuned - base| x KL(softmax(tuned row) || softmax(base row))
    W     = tuned where score >= median + 1.5 (third quartile - first quartile), else base

Rows run along the last dimension; 1e-8 is added to each probability. mergekit takes the quartiles of a
random sample where a tensor has over a million values, so its result depends on a seed; here they are exact.

Source: Arcee Fusion, https://arcee.ai; mergekit 0.1.5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from memcard.core.tensors import Specs
from memcard.maths.floats import BLOCK, Array, Double, decode, encode, stored
from memcard.ops._tensorwise import DTYPE, TensorWise, target, views
from memcard.recipes.nodes import Params, Step
from memcard.recipes.op import Param, Reader

_FLOOR = 1e-8


class ArceeFusion(TensorWise):
    """Inputs: base, tuned. Takes 8 bytes of memory per value of the largest tensor."""

    title = "Arcee Fusion"
    source = "https://arcee.ai; mergekit, merge_methods/arcee_fusion"
    params: ClassVar[Mapping[str, Param]] = {"dtype": DTYPE}
    arity = (2, 2)
    takes_base: ClassVar[bool] = True

    def step(self, name: str, inputs: Sequence[Specs], params: Params) -> Step:
        """Ask for whole rows, and for a first look at all of them."""
        made = super().step(name, inputs, params)
        if made.copy or not made.spec.elements:
            return made
        columns = made.spec.shape[-1] if made.spec.shape else 1
        return replace(made, block=columns, measure=True)

    def measure(self, step: Step, read: Reader, params: Params) -> float:
        """Return the least score that is taken from the tuned model."""
        values, size, columns = views(step, read), step.spec.elements, step.block
        scores = np.empty(size)
        piece = _piece(columns)
        for at in range(0, size, piece):
            base, tuned = map(_widened, values(at, min(piece, size - at)))
            scores[at : at + piece] = fusion_scores(base, tuned, columns)
        return _threshold(scores)

    def apply(
        self, step: Step, parts: Sequence[memoryview], params: Params, out: memoryview, start: int
    ) -> int:
        """Choose within some rows."""
        arrays = [stored(p, dtype) for p, dtype in zip(parts, step.detail, strict=True)]
        into, piece, bad = target(step, out), _piece(step.block), 0
        for at in range(0, into.size, piece):
            base, tuned = (_widened(array[at : at + piece]) for array in arrays)
            scores = fusion_scores(base, tuned, step.block)
            np.copyto(base, tuned, where=scores >= step.stats)
            bad += encode(base, into[at : at + piece])
        return bad


def _piece(columns: int) -> int:
    return max(1, BLOCK // columns) * columns


def _widened(values: Array) -> Double:
    made: Double = np.empty(values.size)
    decode(values, made)
    return made


def fusion_scores(base: Array, tuned: Array, columns: int) -> Array:
    """Return how much each weight of whole rows matters; float64, flat.

    Args:
        base: flat float64.
        tuned: as long.
        columns: length of a row.
    """
    b, t = (x.reshape(-1, columns) for x in (base, tuned))
    with np.errstate(all="ignore"):
        p, q = _softmax(t) + _FLOOR, _softmax(b) + _FLOOR
        distance: Any = np.sum(p * np.log(p / q), axis=1, keepdims=True)
        return np.asarray(np.abs(t - b) * distance).reshape(-1)


def _softmax(rows: Array) -> Array:
    made = np.exp(rows - rows.max(axis=1, keepdims=True))
    return np.asarray(made / made.sum(axis=1, keepdims=True))


def _threshold(scores: Array) -> float:
    """Return median + 1.5 (q3 - q1), the lower of two middle values; ``scores`` are shuffled."""
    places = [int(q * (scores.size - 1)) for q in (0.25, 0.5, 0.75)]
    scores.partition(places)  # in place: a copy would double the memory
    first, middle, third = (float(scores[place]) for place in places)
    return middle + 1.5 * (third - first)


PLUGIN = ArceeFusion()
