"""Spherical interpolation of two models or of their changes from a base, also row by row.

    W = base + sin((1-t) angle) / sin(angle) dA + sin(t angle) / sin(angle) dB,  t = wB / (wA + wB)

Without ``task_vectors`` the base is 0. Plain interpolation only where the angle is below 1e-6. With
``flatten`` false, each row (the last dimension) has an angle of its own; with ``row_wise``, each run
along the first dimension, which are the names mergekit gives them.

Source: mergekit 0.1.5, "nuslerp"; Shoemake 1985.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast

import numpy as np

from memcard.core.tensors import Specs
from memcard.errors import UsageError
from memcard.maths.floats import BLOCK, Array, Double, encode, stored
from memcard.maths.sphere import STRAIGHT, column_dots, nuslerp_weights, rows
from memcard.ops._pairs import DTYPE
from memcard.ops._sphere import TASK_VECTORS, Spherical, models
from memcard.ops._tensorwise import target, views
from memcard.recipes.nodes import Params, Step
from memcard.recipes.op import Param, Reader


class NuSlerp(Spherical):
    """Inputs: A, B; or base, A, B with ``task_vectors``."""

    title = "NuSLERP"
    source = "mergekit, merge_methods/nuslerp"
    params: ClassVar[Mapping[str, Param]] = {
        "weights": Param("floats", (), "one number per model; none: equal"),
        "task_vectors": TASK_VECTORS,
        "flatten": Param("bool", True, "one angle per tensor; false: one per row"),
        "row_wise": Param("bool", False, "rows run along the first dimension, not the last"),
        "dtype": DTYPE,
    }
    arity = (2, 3)

    def check(self, count: int, params: Params) -> None:
        """Ask for two models."""
        if models(count, params) != 2:
            raise UsageError(
                f"nuslerp: {count} inputs; give two models, or with task_vectors=true a base "
                "and two models."
            )
        _given(params)

    def weights(self, dots: Double, params: Params) -> tuple[float, float]:
        """Return the coefficients of A and B."""
        return nuslerp_weights(dots, _share(params))

    def step(self, name: str, inputs: Sequence[Specs], params: Params) -> Step:
        """Ask for dot products, or for whole rows at a time."""
        made = super().step(name, inputs, params)
        shape, count = made.spec.shape, made.spec.elements
        if made.copy or params["flatten"] or len(shape) < 2 or not count:
            return made
        if params["row_wise"]:
            return replace(made, block=count // shape[0])
        if shape[-1] == 1:  # a row of one value has no angle but 0 and 180 degrees
            t = _share(params)
            rest = (0.0,) if params["task_vectors"] else ()
            return replace(made, measure=False, stats=(*rest, 1.0 - t, t))
        return replace(made, block=shape[-1], measure=False)

    def measure(self, step: Step, read: Reader, params: Params) -> Any:
        """Return the coefficients of the inputs, or of each column of A and B."""
        if step.block == 1:
            return super().measure(step, read, params)
        values, size = views(step, read), step.spec.elements
        return _arcs(column_dots(values, size, step.block), _share(params))

    def apply(
        self, step: Step, parts: Sequence[memoryview], params: Params, out: memoryview, start: int
    ) -> int:
        """Compute one chunk, by one angle or by many."""
        if step.block == 1:
            return super().apply(step, parts, params, out, start)
        arrays = [stored(p, dtype) for p, dtype in zip(parts, step.detail, strict=True)]
        into, bad = target(step, out), 0
        piece = max(1, BLOCK // step.block) * step.block
        with np.errstate(all="ignore"):
            for at in range(0, into.size, piece):
                a, b, base = rows([array[at : at + piece] for array in arrays], step.block)
                first, second = step.stats or _by_row(a, b, _share(params))
                made = first * a + second * b
                if base is not None:
                    made += base
                bad += encode(made.reshape(-1), into[at : at + piece])
        return bad


def _by_row(a: Array, b: Array, t: float) -> tuple[Array, Array]:
    dots = [np.sum(x * y, axis=1, keepdims=True) for x, y in ((a, a), (b, b), (a, b))]
    return _arcs(np.asarray(dots), t)


def _arcs(dots: Array, t: float) -> tuple[Array, Array]:
    """Return the coefficients of A and B for many pairs, given A.A, B.B and A.B."""
    with np.errstate(all="ignore"):
        norms = np.maximum(np.sqrt(dots[:2]), 1e-7)
        cosine = np.clip(dots[2] / norms[0] / norms[1], -1.0, 1.0)
        straight = ~(1.0 - cosine * cosine > STRAIGHT)  # NaN is straight too
        angle = np.arccos(np.where(straight, 0.0, cosine))
        first = np.where(straight, 1.0 - t, np.sin((1.0 - t) * angle) / np.sin(angle))
        second = np.where(straight, t, np.sin(t * angle) / np.sin(angle))
    return first, second


def _given(params: Params) -> tuple[float, float]:
    given = cast("tuple[float | None, ...]", params["weights"]) or (1.0, 1.0)
    if len(given) != 2 or None in given:
        raise UsageError(f"weights: {len(given)} given for 2 models; give one for each.")
    return cast("tuple[float, float]", given)


def _share(params: Params) -> float:
    """Return t; weights that add up to nothing mean the middle, as in mergekit."""
    first, second = _given(params)
    total = first + second
    return 0.5 if abs(total) < 1e-6 else second / total


PLUGIN = NuSlerp()
