"""Two models in a row: one walks the noisy part of the way, another the rest.

Where the first stops and the second begins is a share of the levels of training, so that models with other
steps between meet at the same noise.

Source: Balaji et al. 2022, arXiv:2211.01324 (experts in a row); diffusers ``denoising_end`` of
``pipeline_stable_diffusion_xl.py`` and ``denoising_start`` of ``..._img2img.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from memcard.errors import UsageError


def check(share: float) -> None:
    """Refuse a share that leaves one of both nothing to do.

    Raises:
        UsageError: it is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise UsageError(
            f"the refiner at {share:g} of the way: give a share between 0 and 1; 0.8 is usual."
        )


def _level(scheduler: Any, share: float) -> int:
    count = int(scheduler.config.num_train_timesteps)
    return round(count - share * count)


def until(scheduler: Any, moments: Sequence[Tensor], share: float) -> Sequence[Tensor]:
    """Return the moments that the first model walks.

    Raises:
        UsageError: none is left.
    """
    level = _level(scheduler, share)
    count = sum(bool(moment >= level) for moment in moments)
    if not count:
        raise UsageError(
            f"the refiner at {share:g} of the way leaves the base no step. Use a larger share or more steps."
        )
    return moments[:count]


def since(scheduler: Any, share: float) -> int:
    """Return the index of the first moment that the second model walks.

    Raises:
        UsageError: none is left.
    """
    moments = scheduler.timesteps
    count = int((moments < _level(scheduler, share)).sum())
    if not count:
        raise UsageError(
            f"the refiner at {share:g} of the way has no step left. Use a smaller share or more steps."
        )
    if getattr(scheduler, "order", 1) > 1 and count % 2 == 0:
        count += 1  # both looks of a step belong together
    return len(moments) - count
