"""How near the latents are to those that many more steps make of the same seed.

As ``convergence``, before the decoder: it sees what a decoder smooths away. The power of the reference
stands for its contrast, since latents have no fixed range.
"""

from __future__ import annotations

from collections.abc import Sequence

from memcard.generation.scorer import Bench, Better, Need, Shot
from memcard.generation.scorers._pixels import MOST_DECIBELS, decibels, partner


class LatentConvergence:
    """Signal to error of the latents."""

    title = "convergence of the latents"
    source = "arXiv:2011.13456, section 4.3"
    range = (-MOST_DECIBELS, MOST_DECIBELS)
    unit = "dB"
    better: Better = "higher"
    needs: tuple[Need, ...] = ("reference",)

    def score(self, shots: Sequence[Shot], bench: Bench) -> tuple[float, ...]:
        """Return decibels; 0 means the error is as large as the picture's own contrast."""
        return tuple(_ratio(s, partner(s, bench.references, "converged picture")) for s in shots)


def _ratio(shot: Shot, reference: Shot) -> float:
    latents = reference.latents.double()
    error = (shot.latents.double() - latents).square().mean()
    return decibels(float(latents.var(correction=0)), float(error))


PLUGIN = LatentConvergence()
