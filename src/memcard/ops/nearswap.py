"""Move a base towards another model, where they are already near each other.

    W = base + w (other - base),  w = min(1, t / max(|other - base|, 1e-6))

No weight moves by more than t, and weights closer than t are swapped for the other's.

Source: alchemonaut, https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001; mergekit 0.1.5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from memcard.maths.floats import Double
from memcard.ops._pairs import DTYPE
from memcard.ops._tensorwise import ElementWise, number
from memcard.recipes.nodes import Params
from memcard.recipes.op import Param


class NearSwap(ElementWise):
    """Inputs: base, other."""

    title = "NearSwap"
    source = "https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001"
    params: ClassVar[Mapping[str, Param]] = {
        "t": Param("float", 1e-4, "most that a weight may move", low=0),
        "dtype": DTYPE,
    }
    arity = (2, 2)
    takes_base: ClassVar[bool] = True

    def formula(self, values: Sequence[Double], params: Params) -> Double:
        """Move each weight by at most ``t``."""
        base, other = values
        change = other - base
        share = np.minimum(number(params, "t") / np.maximum(np.abs(change), 1e-6), 1.0)
        # Whole swaps are exact; and no weight may turn an infinity of the other into NaN.
        moved = np.where(share < 1.0, base + share * change, other)
        return np.where(share > 0.0, moved, base)


PLUGIN = NearSwap()
