"""Burn-in: how much guidance has swollen the contrast of the latents.

A guided guess is larger than an unguided one, so colours and contrasts grow with the guidance scale
until they clip. The standard deviation of the latents tells before pixels do (Lin et al. 2023,
arXiv:2305.08891, section 3.4, where the remedy is to scale it back).
"""

from __future__ import annotations

from collections.abc import Sequence

from memcard.generation.scorer import Bench, Better, Need, Shot
from memcard.generation.scorers._pixels import partner


class Exposure:
    """Contrast of the unguided latents as a share of the guided ones."""

    title = "exposure (1: no burn-in)"
    source = "arXiv:2305.08891, section 3.4"
    range = (0.0, 1.0)
    unit = ""
    better: Better = "higher"
    needs: tuple[Need, ...] = ("unguided",)

    def score(self, shots: Sequence[Shot], bench: Bench) -> tuple[float, ...]:
        """Return 1 where guidance added no contrast, 0.5 where it doubled it."""
        return tuple(_kept(s, partner(s, bench.unguided, "unguided picture")) for s in shots)


def _kept(shot: Shot, unguided: Shot) -> float:
    guided, plain = float(shot.latents.double().std()), float(unguided.latents.double().std())
    return 1.0 if guided <= plain else plain / guided


PLUGIN = Exposure()
