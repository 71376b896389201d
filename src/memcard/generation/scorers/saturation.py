"""How colourful a picture is: the mean distance between the largest and the smallest of R, G, B.

Source: chroma of the HSV and HSL models (Joblove and Greenberg 1978, "Color spaces for computer graphics").
"""

from __future__ import annotations

from torch import Tensor

from memcard.generation.scorers._pixels import OfPixels


def measure(pixels: Tensor) -> float:
    """Return the mean chroma, 0 for grey."""
    return float((pixels.amax(dim=-1) - pixels.amin(dim=-1)).double().mean())


PLUGIN = OfPixels(
    title="saturation",
    source="chroma of HSV, Joblove and Greenberg 1978",
    range=(0.0, 1.0),
    measure=measure,
)
