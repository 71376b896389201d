"""How clearly a picture shows its prompt, as the model itself sees it.

The mean logarithm of error under the nearest other prompt over error under its own. It rises while
guidance makes the prompt clearer, and falls when burn-in makes the picture unlikely under every prompt;
so it has its peak at a guidance scale that is neither.

Source: arXiv:2303.16203, arXiv:2303.15233; see ``_likelihood``.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from torch import Tensor

from memcard.generation.scorer import Bench, Better, Need, Shot
from memcard.generation.scorers._likelihood import log_errors


class Adherence:
    """Margin of the prompt over the nearest rival."""

    title = "adherence (self-likelihood)"
    source = "arXiv:2303.16203"
    range = (-inf, inf)
    unit = "nats"
    better: Better = "higher"
    needs: tuple[Need, ...] = ("model",)

    def score(self, shots: Sequence[Shot], bench: Bench) -> tuple[float, ...]:
        """Return the margin: above 0 the model would name the prompt, 0.7 is half the error."""
        return tuple(margin(*log_errors(shot, bench)) for shot in shots)


def margin(own: Tensor, rivals: Tensor) -> float:
    """Return the mean over the looks of log(error under the nearest rival / error under the prompt).

    Args:
        own: [looks], natural logarithms.
        rivals: [looks, n]; the nearest is the one of the least mean.
    """
    return float(rivals.mean(dim=0).min() - own.mean())


PLUGIN = Adherence()
