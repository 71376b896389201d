"""How near a picture is to the one that many more steps make of the same seed: PSNR of the pixels.

Samplers without fresh noise walk one curve (Song et al. 2020, arXiv:2011.13456, section 4.3), so with
enough steps all of them end in the same picture; what is left between is the error of too few steps.
"""

from __future__ import annotations

from collections.abc import Sequence

from memcard.generation.scorer import Bench, Better, Need, Shot
from memcard.generation.scorers._pixels import MOST_DECIBELS, decibels, partner


class Convergence:
    """PSNR against the converged picture."""

    title = "convergence of the picture"
    source = "arXiv:2011.13456, section 4.3"
    range = (-MOST_DECIBELS, MOST_DECIBELS)
    unit = "dB"
    better: Better = "higher"
    needs: tuple[Need, ...] = ("reference",)

    def score(self, shots: Sequence[Shot], bench: Bench) -> tuple[float, ...]:
        """Return decibels; 20 is a difference anyone sees, 30 takes a close look, 60 is none."""
        return tuple(_psnr(s, partner(s, bench.references, "converged picture")) for s in shots)


def _psnr(shot: Shot, reference: Shot) -> float:
    error = (shot.pixels.double() - reference.pixels.double()).square().mean()
    return decibels(1.0, float(error))


PLUGIN = Convergence()
