"""How many colour values are neither black nor white: what clips has lost its drawing.

A picture on a white ground clips there by right, so compare only pictures of the same prompt.
"""

from __future__ import annotations

from typing import Final

from torch import Tensor

from memcard.generation.scorers._pixels import OfPixels

_STEP: Final = 1 / 255  # of 8-bit files


def measure(pixels: Tensor) -> float:
    """Return the share of values that are more than half a step of 8 bits away from 0 and 1."""
    inside = (pixels > _STEP / 2) & (pixels < 1 - _STEP / 2)
    return float(inside.double().mean())


PLUGIN = OfPixels(
    title="values that do not clip",
    source="share of 8-bit values other than 0 and 255",
    range=(0.0, 1.0),
    measure=measure,
    better="higher",
)
