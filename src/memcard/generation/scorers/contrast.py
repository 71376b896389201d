"""How far light and dark are apart: the standard deviation of the luminance.

Source: RMS contrast (Peli 1990, "Contrast in complex images").
"""

from __future__ import annotations

from torch import Tensor

from memcard.generation.scorers._pixels import OfPixels, luminance


def measure(pixels: Tensor) -> float:
    """Return the standard deviation of the luminance, at most 0.5."""
    return float(luminance(pixels).double().std(correction=0))


PLUGIN = OfPixels(
    title="contrast", source="RMS contrast, Peli 1990", range=(0.0, 0.5), measure=measure
)
