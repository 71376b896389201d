"""What a search comes to: whether the found settings are worth using, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from memcard.jobs._tune_cells import Cell
    from memcard.jobs._tune_race import Margin

# Nats: 2 % of the error. Many pictures would prove even less, but nobody would see it.
TRIFLE: Final = 0.02


def verdict(
    found: Cell,
    usual: Cell,
    check: Mapping[str, tuple[Margin, Margin, Margin]],
    evaluations: int,
    usual_evaluations: int,
) -> tuple[bool, str]:
    """Return whether to recommend, and a sentence for people.

    Recommended is what adheres better to held-out prompts beyond chance, or as well with fewer runs of
    the denoiser. Nothing that adheres worse is recommended, however fast. Less than ``TRIFLE`` is no difference.
    """
    gain = check["adherence"][2]
    by = f"{gain.mean:+.3f} nats, 95 % interval {gain.low:+.3f} to {gain.high:+.3f}, n = {gain.n}"
    cost = f"{evaluations} runs of the denoiser a picture in place of {usual_evaluations}"
    if found == usual:
        return False, "The family's own settings are the best that were found; nothing to change."
    if gain.low > 0 and gain.mean >= TRIFLE:
        return (
            True,
            f"Better than the family's settings on held-out prompts and seeds: adherence {by}; {cost}.",
        )
    if gain.high < 0 and gain.mean <= -TRIFLE:
        return False, (
            f"On held-out prompts and seeds the family's settings were better (adherence {by}), "
            "so nothing is recommended. A larger budget may find more."
        )
    if evaluations < usual_evaluations:
        return True, (
            f"As good as the family's settings on held-out prompts and seeds, as far as can be seen "
            f"(adherence {by}), with {cost}."
        )
    return False, (
        f"No difference worth a change from the family's settings was shown on held-out prompts and seeds (adherence {by}), "
        "so nothing is recommended."
    )
