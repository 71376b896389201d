"""What scorers of pixels share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Final

import torch
from torch import Tensor

from memcard.errors import UsageError
from memcard.generation.scorer import Bench, Better, Key, Need, Shot

_LUMA: Final = (0.299, 0.587, 0.114)  # ITU-R BT.601
MOST_DECIBELS: Final = 60.0  # closer than any eye or 8-bit file can tell


@dataclass(frozen=True, slots=True)
class OfPixels:
    """A scorer of one picture alone: ``measure`` takes pixels in 0..1, [frames, height, width, 3]."""

    title: str
    source: str
    range: tuple[float, float]
    measure: Callable[[Tensor], float]
    unit: str = ""
    better: Better = "none"
    needs: tuple[Need, ...] = ()

    def score(self, shots: Sequence[Shot], bench: Bench) -> tuple[float, ...]:
        """Return one number for each picture."""
        del bench
        return tuple(self.measure(shot.pixels.float()) for shot in shots)


def luminance(pixels: Tensor) -> Tensor:
    """Return how bright each pixel is, 0..1, [frames, height, width]."""
    return pixels @ torch.tensor(_LUMA, dtype=pixels.dtype)


def decibels(power: float, error: float) -> float:
    """Return how far an error lies below a power, in decibels, at most ``MOST_DECIBELS``.

    What is no number is the worst there is: a sampler that broke down has not converged.
    """
    if not (isfinite(power) and isfinite(error)):
        return -MOST_DECIBELS
    if error <= 0 or power <= 0:
        return MOST_DECIBELS if error <= 0 else -MOST_DECIBELS
    ratio = 10 * float(torch.log10(torch.tensor(power / error, dtype=torch.float64)))
    return max(-MOST_DECIBELS, min(MOST_DECIBELS, ratio))


def partner(shot: Shot, others: Mapping[Key, Shot], what: str) -> Shot:
    """Return the picture of the same prompt and seed.

    Raises:
        UsageError: it is not there, or of another size.
    """
    other = others.get(shot.key)
    if other is None:
        raise UsageError(
            f"{shot.prompt!r}, seed {shot.seed}: there is no {what} to compare it with. Make one with "
            "the same prompt and seed, and put it on the bench."
        )
    if other.pixels.shape != shot.pixels.shape or other.latents.shape != shot.latents.shape:
        raise UsageError(
            f"{shot.prompt!r}, seed {shot.seed}: the picture is {tuple(shot.pixels.shape)}, its {what} "
            f"{tuple(other.pixels.shape)}. Make both in one size."
        )
    return other
