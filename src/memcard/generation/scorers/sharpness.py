"""How much fine detail there is: the mean size of the Laplacian of the luminance.

Noise is fine detail too, so it describes and does not judge.

Source: a focus measure of Nayar and Nakagawa 1994, "Shape from focus", without their threshold.
"""

from __future__ import annotations

from torch import Tensor

from memcard.generation.scorers._pixels import OfPixels, luminance


def measure(pixels: Tensor) -> float:
    """Return the mean over the inner pixels of |4 x own - left - right - above - below|, at most 4."""
    light = luminance(pixels).double()
    centre = light[:, 1:-1, 1:-1]
    sides = light[:, :-2, 1:-1] + light[:, 2:, 1:-1] + light[:, 1:-1, :-2] + light[:, 1:-1, 2:]
    return float((4 * centre - sides).abs().mean())


PLUGIN = OfPixels(
    title="sharpness", source="Nayar and Nakagawa 1994", range=(0.0, 4.0), measure=measure
)
