"""Turn A's weights towards B's by an orthogonal matrix, tensor by tensor (Procrustes).

    W = (1 - alpha) A' Q + alpha B' + c mean(B),  A' = A - c mean(A),  B' = B - c mean(B),  Q'Q = 1

Q is the rotation that brings A' closest to B'. The mean is that of the rows and c is ``centralization``. A
tensor is seen as [first dimension, rest], a convolution with a kernel larger than 1 x 1 as [out x in, kernel].
What has one dimension only is interpolated by alpha. One SVD per tensor: minutes for a large model. It comes
from LAPACK: the same bits on one machine, not on every processor.

Source: Schönemann 1966; sd-mecha 1.1.8, rotate with alignment 1 (for wide matrices see ``maths/procrustes.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import ClassVar

import numpy as np

from memcard.maths.floats import Array, combine, stored
from memcard.maths.procrustes import rotated
from memcard.ops._pairs import DTYPE
from memcard.ops._tensorwise import WholePair, emit, number, target, widen
from memcard.recipes.nodes import Params, Step
from memcard.recipes.op import Param

_CONVOLUTION = 4  # dimensions


class Rotate(WholePair):
    """Inputs: A, B. Takes about 70 bytes of memory per value of the largest tensor."""

    title = "Rotate (Procrustes)"
    source = "Schönemann 1966; sd-mecha 1.1.8, rotate"
    params: ClassVar[Mapping[str, Param]] = {
        "alpha": Param("float", 0.0, "0: A turned towards B; 1: B", 0, 1),
        "centralization": Param("float", 1.0, "how much of the rows' mean to take off first", 0, 1),
        "dtype": DTYPE,
    }
    per_value: ClassVar[int] = 70

    def apply(
        self, step: Step, parts: Sequence[memoryview], params: Params, out: memoryview, start: int
    ) -> int:
        """Turn one tensor."""
        shape, alpha = step.spec.shape, number(params, "alpha")
        pairs = list(zip(parts, step.detail, strict=True))
        if len(shape) > 1 and out and alpha < 1.0:
            a, b = (widen(part, dtype) for part, dtype in pairs)
            if np.isfinite(a).all() and np.isfinite(b).all() and not np.array_equal(a, b):
                centre = number(params, "centralization")
                made = _turn(a.reshape(_flat(shape)), b.reshape(_flat(shape)), alpha, centre)
                return emit(made, step, out)
        used = [(stored(*p), w) for p, w in zip(pairs, (1.0 - alpha, alpha), strict=True) if w]
        return combine([x for x, _ in used], [w for _, w in used], target(step, out))


def _flat(shape: tuple[int, ...]) -> tuple[int, int]:
    if len(shape) == _CONVOLUTION and prod(shape[2:]) != 1:
        return prod(shape[:2]), prod(shape[2:])
    return shape[0], prod(shape[1:])


def _turn(a: Array, b: Array, alpha: float, centre: float) -> Array:
    middle = b.mean(axis=0) * centre
    b = b - middle
    made = rotated(a - a.mean(axis=0) * centre, b) * (1.0 - alpha)
    if alpha:
        made += alpha * b
    return np.asarray(made + middle)


PLUGIN = Rotate()
