"""How far a picture is from those of other seeds for the same prompt.

Pictures are compared in cells of an eighth of their sides, so that a shifted grain of texture is no
difference and another pose or colour is.

Source: the mean distance of pairs, as in arXiv:1711.11586, section 4, with pixels in place of a network.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from memcard.errors import UsageError
from memcard.generation.scorer import Bench, Better, Key, Need, Shot

_CELLS: Final = 8


class Diversity:
    """Root of the mean squared difference, averaged over the other seeds."""

    title = "diversity over seeds"
    source = "arXiv:1711.11586, section 4"
    range = (0.0, 1.0)
    unit = ""
    better: Better = "higher"
    needs: tuple[Need, ...] = ("seeds",)

    def score(self, shots: Sequence[Shot], bench: Bench) -> tuple[float, ...]:
        """Return the mean distance of each picture to the others of its prompt; 0 if all are equal.

        Raises:
            UsageError: a prompt has one seed only.
        """
        del bench
        groups: dict[str, list[Shot]] = {}
        for shot in shots:
            groups.setdefault(shot.prompt, []).append(shot)
        alone = [prompt for prompt, group in groups.items() if len({s.seed for s in group}) < 2]
        if alone:
            raise UsageError(
                f"diversity needs two seeds or more for each prompt; {', '.join(map(repr, alone))} "
                "has one. Make more pictures."
            )
        found: dict[Key, float] = {}
        for group in groups.values():
            found |= _distances(group)
        return tuple(found[shot.key] for shot in shots)


def _distances(group: Sequence[Shot]) -> dict[Key, float]:
    cells = {shot.key: _coarse(shot.pixels) for shot in group}
    sums = dict.fromkeys(cells, 0.0)
    for one, other in combinations(cells, 2):
        distance = float((cells[one] - cells[other]).square().mean().sqrt())
        sums[one] += distance
        sums[other] += distance
    return {key: total / (len(cells) - 1) for key, total in sums.items()}


def _coarse(pixels: Tensor) -> Tensor:
    picture = pixels.to(torch.float64).permute(0, 3, 1, 2)
    return functional.adaptive_avg_pool2d(picture, _CELLS)


PLUGIN = Diversity()
