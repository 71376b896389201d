"""DPM-Solver++ with a second look half-way and fresh noise, on the levels of diffusers' DPM2.

Diffusers has these two only with torchsde, or not at all. DPM2 looks at the same levels; only what is
made of the looks differs, and that is here. The noise of DPM++ SDE is one path of Brownian motion per
picture: what reaches the level half-way goes on to the next level.

Sources: k-diffusion, ``sample_dpmpp_2s_ancestral`` and ``sample_dpmpp_sde`` (MIT), for r = 1/2 and eta = 1;
Lu et al. 2022, arXiv:2211.01095.
"""

from __future__ import annotations

from typing import Any

from diffusers.schedulers.scheduling_k_dpm_2_ancestral_discrete import (
    KDPM2AncestralDiscreteScheduler,
)
from diffusers.schedulers.scheduling_k_dpm_2_discrete import KDPM2DiscreteScheduler
from diffusers.utils.torch_utils import randn_tensor
from torch import Generator, Tensor


class DPMpp2SAncestral(KDPM2AncestralDiscreteScheduler):  # type: ignore[misc]  # diffusers is untyped
    """DPM++ 2S a: half a step down without noise, a look, the whole step from it, noise."""

    sample: Any  # where the step began; None is diffusers' sign that a new one begins

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        generator: Generator | None = None,
        return_dict: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Take one of the two halves of a step."""
        if self.step_index is None:
            self._init_step_index(timestep)
        if self.state_in_first_order:  # the first half is an Euler step, as in DPM2
            found = super().step(model_output, timestep, sample, generator, return_dict=False)
            return found[0], found[1]
        at = self.step_index - 1
        clean = clean_guess(self, model_output, sample, self.sigmas_interpol[at])
        share = self.sigmas_down[at] / self.sigmas[at]
        stepped = share * self.sample + (1 - share) * clean
        stepped = stepped + _noise(model_output, generator) * self.sigmas_up[at]
        self.sample = None
        self._step_index += 1
        return stepped.to(model_output.dtype), clean


class DPMppSDE(KDPM2DiscreteScheduler):  # type: ignore[misc]  # diffusers is untyped
    """DPM++ SDE: half a step with noise, a look, the whole step from it with the noise of both halves."""

    sample: Any  # where the step began; None is diffusers' sign that a new one begins
    path: Tensor  # of Brownian motion, from there to where it is now

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        generator: Generator | None = None,
        return_dict: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Take one of the two halves of a step."""
        if self.step_index is None:
            self._init_step_index(timestep)
        halved = self.state_in_first_order
        at = self.step_index if halved else self.step_index - 1
        level, half, after = self.sigmas[at], self.sigmas_interpol[at + 1], self.sigmas[at + 1]
        clean = clean_guess(self, model_output, sample, level if halved else half)
        if halved:
            self.sample = sample
            self.path = (level - half) ** 0.5 * _noise(model_output, generator)
            target, travelled = half, level - half
        else:
            self.path = self.path + (half - after) ** 0.5 * _noise(model_output, generator)
            target, travelled = after, level - after
        up = (target**2 * (level**2 - target**2) / level**2) ** 0.5
        share = (target**2 - up**2) ** 0.5 / level
        stepped = share * self.sample + (1 - share) * clean + up * self.path / travelled**0.5
        if not halved:
            self.sample = None
        self._step_index += 1
        return stepped.to(model_output.dtype), clean


def clean_guess(scheduler: Any, guess: Tensor, sample: Tensor, level: Tensor) -> Tensor:
    """Return what a guess says the picture without noise is, of ``sample`` = picture + level * noise."""
    if scheduler.config.prediction_type == "v_prediction":
        return guess * (-level / (level**2 + 1) ** 0.5) + sample / (level**2 + 1)
    return sample - level * guess


def _noise(like: Tensor, source: Generator | None) -> Tensor:
    drawn: Tensor = randn_tensor(like.shape, source, like.device, like.dtype)
    return drawn
