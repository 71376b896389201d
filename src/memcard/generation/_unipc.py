"""Diffusers' UniPC for its step function B1, which has no value at a last level of 0.

B1 is the step in log signal to noise itself; at 0 that is infinite, and diffusers returns no number.
So the last level is 0.001, as ComfyUI's UniPC has it: a thirtieth of the lowest level of training.

Source: Zhao et al. 2023, arXiv:2302.04867, section 3.2.
"""

from __future__ import annotations

from typing import Any, Final

from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler as _Scheduler

_LAST: Final = 0.001


class UniPCMultistepScheduler(_Scheduler):  # type: ignore[misc]  # diffusers is untyped
    """UniPC that ends just above 0."""

    def step(self, *given: Any, **named: Any) -> Any:
        """Take one step; see diffusers."""
        if self.sigmas[-1] == 0:
            self.sigmas[-1] = _LAST
        return super().step(*given, **named)
