"""Diffusers' linear multistep scheduler with its integrals in closed form.

Diffusers asks scipy to integrate the polynomials numerically, to four digits; they are polynomials of
the third degree, so two Gauss points per integral give them exactly, and scipy is not needed.

Source: k-diffusion, ``linear_multistep_coeff``.
"""

from __future__ import annotations

import numpy as np
from diffusers.schedulers.scheduling_lms_discrete import LMSDiscreteScheduler as _Scheduler


class LMSDiscreteScheduler(_Scheduler):  # type: ignore[misc]  # diffusers is untyped
    """Linear multistep method over the last four slopes."""

    def get_lms_coefficient(self, order: int, t: int, current_order: int) -> float:
        """Return the integral of one Lagrange polynomial over a step.

        Args:
            order: how many slopes are known.
            t: which step.
            current_order: which of the slopes, 0 is the newest.
        """
        sigmas = self.sigmas.double().numpy()
        start, end = sigmas[t], sigmas[t + 1]
        nodes, weights = np.polynomial.legendre.leggauss(2)
        at = (start + end) / 2 + (end - start) / 2 * nodes
        for k in range(order):
            if k != current_order:
                weights = (
                    weights * (at - sigmas[t - k]) / (sigmas[t - current_order] - sigmas[t - k])
                )
        return float(weights.sum() * (end - start) / 2)
