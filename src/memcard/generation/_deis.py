"""Diffusers' DEIS without numpy's word about how it asks for logarithms.

Its steps call numpy with tensors, which numpy 2 does and announces to give up; the numbers are right.

Source: Zhang and Chen 2022, arXiv:2204.13902.
"""

from __future__ import annotations

import warnings
from typing import Any

from diffusers.schedulers.scheduling_deis_multistep import DEISMultistepScheduler as _Scheduler


class DEISMultistepScheduler(_Scheduler):  # type: ignore[misc]  # diffusers is untyped
    """DEIS, quiet."""

    def step(self, *given: Any, **named: Any) -> Any:
        """Take one step; see diffusers."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "__array_wrap__", DeprecationWarning)
            return super().step(*given, **named)
