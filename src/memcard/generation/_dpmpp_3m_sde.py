"""Diffusers' multistep DPM-Solver++ with the sign its third-order step needs as a stochastic equation.

The share of the second difference there is -(1 - phi) where 1/2 - phi is right (phi goes to 1/2 with
the step): in diffusers 0.42 it goes to -1 for small steps instead of 0, and the error grows with the number
of steps. The rest of the step is diffusers' own.

Source: k-diffusion, ``sample_dpmpp_3m_sde``; Lu et al. 2022, arXiv:2211.01095, section 6.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.schedulers.scheduling_dpmsolver_multistep import (
    DPMSolverMultistepScheduler as _Scheduler,
)
from torch import Tensor


class DPMSolverMultistepScheduler(_Scheduler):  # type: ignore[misc]  # diffusers is untyped
    """DPM-Solver++ of third order as a stochastic equation."""

    def multistep_dpm_solver_third_order_update(
        self, model_output_list: list[Tensor], *given: Any, sample: Tensor, **named: Any
    ) -> Tensor:
        """Take one step; see diffusers."""
        stepped: Tensor = super().multistep_dpm_solver_third_order_update(
            model_output_list, *given, sample=sample, **named
        )
        at = self.step_index
        pairs = [self._sigma_to_alpha_sigma_t(self.sigmas[i]) for i in range(at + 1, at - 3, -1)]
        now, *before = (torch.log(alpha) - torch.log(sigma) for alpha, sigma in pairs)
        step, first, second = now - before[0], before[0] - before[1], before[1] - before[2]
        m0, m1, m2 = model_output_list[-1], model_output_list[-2], model_output_list[-3]
        bend = (m0 - m1) * (step / first) - (m1 - m2) * (step / second)
        stepped += pairs[0][0] * bend * (step / (first + second))
        return stepped
