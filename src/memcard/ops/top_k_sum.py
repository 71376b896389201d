"""Give A's values to the places B's ranking says, for a share of the values by magnitude.

A's values are sorted; the place where B has its r-th smallest value gets A's r-th smallest. Only those of A's
values are moved whose magnitude lies in the region from ``offset`` to ``offset + width`` of all magnitudes
(it wraps around); every other place keeps A's own value. Of equal values the one at the lower index ranks first.

Source: sd-mecha 1.1.8, top_k_tensor_sum; supermerger, "tensor sum 2".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from memcard.maths.floats import Array
from memcard.ops._pairs import DTYPE
from memcard.ops._tensorwise import WholePair, emit, number, widen
from memcard.recipes.nodes import Params, Step
from memcard.recipes.op import Param


class TopKSum(WholePair):
    """Inputs: A, B. Takes about 40 bytes of memory per value of the largest tensor."""

    title = "Top-k tensor sum"
    source = "sd-mecha 1.1.8, top_k_tensor_sum"
    params: ClassVar[Mapping[str, Param]] = {
        "width": Param("float", 1.0, "share of A's values, by magnitude, to move", 0, 1),
        "offset": Param("float", 0.0, "where the region starts; 0: at the smallest", 0, 1),
        "dtype": DTYPE,
    }
    per_value: ClassVar[int] = 40

    def apply(
        self, step: Step, parts: Sequence[memoryview], params: Params, out: memoryview, start: int
    ) -> int:
        """Rank one tensor."""
        if not out:
            return 0
        wide: Any = np.float64 if any(d.name == "F64" for d in step.detail) else np.float32
        a, b = (widen(part, dtype, wide) for part, dtype in zip(parts, step.detail, strict=True))
        return emit(top_k_sum(a, b, number(params, "width"), number(params, "offset")), step, out)


def top_k_sum(a: Array, b: Array, width: float, offset: float) -> Array:
    """Rearrange a share of ``a`` in the order of ``b``.

    Args:
        a: flat, float32 or float64.
        b: as long.
        width: 0 to 1.
        offset: 0 to 1.
    """
    start, end, inverted = _region(width, offset, a.size)
    ranked = np.sort(a, kind="stable")
    order = np.argsort(b, kind="stable")
    sizes = np.abs(ranked)
    low, high = (_smallest(sizes, k) for k in (start, end))
    moves = (low <= sizes) & (sizes <= high)
    if inverted:
        moves = ~moves
    made = a.copy()
    made[order[moves]] = ranked[moves]
    return made


def _region(width: float, offset: float, count: int) -> tuple[int, int, bool]:
    """Return first and last rank; True: what lies outside is meant, the region wraps around."""
    offset %= 1.0
    if width + offset <= 1.0:
        return round(offset * count), round((width + offset) * count), False
    return round((width + offset - 1.0) * count), round(offset * count), True


def _smallest(sizes: Array, k: int) -> float:
    """Return the k-th smallest, counted from 1; less than all of them for 0."""
    return float(np.partition(sizes, k - 1)[k - 1]) if k > 0 else -1.0


PLUGIN = TopKSum()
