"""How likely a picture is under its prompt: the mean logarithm of the model's errors, with a minus.

Comparable only between pictures of one checkpoint in one size. A blurred picture is easy to predict,
so it judges guidance and not the number of steps.

Source: the bound of Ho et al. 2020, arXiv:2006.11239, section 3.4, at a few levels of noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from memcard.generation.scorer import Bench, Better, Need, Shot
from memcard.generation.scorers._likelihood import log_errors


class Likelihood:
    """Minus the mean log error under the own prompt."""

    title = "likelihood under the prompt"
    source = "arXiv:2006.11239, section 3.4"
    range = (-inf, inf)
    unit = "nats"
    better: Better = "higher"
    needs: tuple[Need, ...] = ("model",)

    def score(self, shots: Sequence[Shot], bench: Bench) -> tuple[float, ...]:
        """Return one number for each picture."""
        return tuple(-float(log_errors(shot, bench)[0].mean()) for shot in shots)


PLUGIN = Likelihood()
