"""Whether the model itself would name the prompt of a picture among others: 1 or 0.

The mean over many pictures is the accuracy of the zero-shot classifier of arXiv:2303.16203.
"""

from __future__ import annotations

from collections.abc import Sequence

from memcard.generation.scorer import Bench, Better, Need, Shot
from memcard.generation.scorers._likelihood import log_errors


class Recognition:
    """Accuracy."""

    title = "recognised by the model itself"
    source = "arXiv:2303.16203"
    range = (0.0, 1.0)
    unit = ""
    better: Better = "higher"
    needs: tuple[Need, ...] = ("model",)

    def score(self, shots: Sequence[Shot], bench: Bench) -> tuple[float, ...]:
        """Return 1 where no rival explains the picture better than its prompt, else 0."""
        found = []
        for shot in shots:
            own, rivals = log_errors(shot, bench)
            found.append(float(own.mean() < rivals.mean(dim=0).min()))
        return tuple(found)


PLUGIN = Recognition()
