"""Take a tuned model's weight only where it matters most; keep the base elsewhere.

    score = |tuned - base| x KL(softmax(tuned row) || softmax(base row))
    W     = tuned where score >= median + 1.5 (third quartile - first quartile), else base

Rows run along the last dimension; 1e-8 is added to each probability. mergekit takes the quartiles of a
random sample where a tensor has over a million values, so its result depends on a seed; here they are exact.

Source: Arcee Fusion, https://arcee.ai; mergekit 0.1.5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from memcard.core.tensors import Specs
from memcard.maths.floats import BLOCK, Array, Double, decode, encode, stored
from memcard.maths.select import ascending, sample_size
from memcard.ops._pairs import DTYPE
from memcard.ops._tensorwise import TensorWise, target, views
from memcard.recipes.nodes import Params, Step
from memcard.recipes.op import Param, Reader

_FLOOR = 1e-8
_PIECES = 32  # places from which scores are looked at beforehand


class ArceeFusion(TensorWise):
    """Inputs: base, tuned. Memory does not grow with the tensors."""

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

        def scores(start: int, count: int) -> Array:
            base, tuned = map(_widened, values(start, count))
            return fusion_scores(base, tuned, columns)

        def scan() -> Iterator[Array]:
            piece = _piece(columns)
            for at in range(0, size, piece):
                yield scores(at, min(piece, size - at))

        places = [int(q * (size - 1)) for q in (0.25, 0.5, 0.75)]  # the lower of two middle values
        hint = _sampled(scores, size, columns, len(places))
        first, middle, third = ascending(scan, places, size, hint)
        return middle + 1.5 * (third - first)

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


def _sampled(scores: Callable[[int, int], Array], size: int, columns: int, searches: int) -> Array:
    """Return the scores of some rows from all over the tensor."""
    wanted = sample_size(size, searches) // _PIECES
    rows = -(-wanted // columns)
    starts = range(0, size // columns, max(1, size // columns // _PIECES)) if wanted else ()
    runs = [scores(s * columns, min(rows * columns, size - s * columns)) for s in starts]
    return np.concatenate([np.zeros(0), *runs])


PLUGIN = ArceeFusion()
