"""Post-hoc EMA: an average of any length, as a weighted sum of stored power-function averages.

A power-function EMA of exponent gamma at step t weighs step tau by (gamma + 1) tau^gamma / t^(gamma + 1). It is
kept by ``ema += (1 - beta) (w - ema)`` with beta = (1 - 1/t)^(gamma + 1). Snapshots of a few of them span many
others: the best fit in the least squares over tau needs only inner products, which have a closed form.

Source: Karras et al. 2023, "Analyzing and Improving the Training Dynamics of Diffusion Models",
arXiv:2312.02696, section 3 and appendix C.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from memcard.errors import UsageError

WIDEST = 1 / math.sqrt(12)  # gamma = 0: the plain mean of all steps
_NARROWEST = 1e-4  # an average over 0.02 % of the training: nothing but the last step


@dataclass(frozen=True, slots=True)
class Profile:
    """Which steps an average is made of.

    Attributes:
        step: the training step it was taken at, above 0.
        sigma_rel: its width (standard deviation) as a share of ``step``, above 0 up to 0.2886.
    """

    step: float
    sigma_rel: float


def gamma_of(sigma_rel: float) -> float:
    """Return the exponent of a width: the largest root of g^3 + 7 g^2 + (16 - s^-2) g + (12 - s^-2).

    Raises:
        UsageError: the width is out of its range.
    """
    if not _NARROWEST <= sigma_rel <= WIDEST:
        raise UsageError(
            f"sigma_rel is {sigma_rel:g}; it goes from {_NARROWEST:g} to {WIDEST:.4f}, the mean of all."
        )
    inverse = sigma_rel**-2
    roots = np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse])
    return max(0.0, float(roots.real[np.abs(roots.imag) < 1e-6 * np.abs(roots).max()].max()))


def sigma_rel_of(gamma: float) -> float:
    """Return the width of a power-function EMA, as a share of the training."""
    return math.sqrt(gamma + 1) / ((gamma + 2) * math.sqrt(gamma + 3))


def overlap(a: Profile, b: Profile) -> float:
    """Return the inner product of two profiles, the integral of their product over all steps."""
    if a.step > b.step:
        a, b = b, a
    ga, gb = gamma_of(a.sigma_rel), gamma_of(b.sigma_rel)
    shared = math.exp(gb * math.log(a.step / b.step))
    return (ga + 1) * (gb + 1) * shared / ((ga + gb + 1) * b.step)


def synthesize(snapshots: Sequence[Profile], target: Profile) -> tuple[tuple[float, ...], float]:
    """Return the weight of each snapshot in the best fit to ``target``, in float64.

    Returns:
        The weights, which may be negative and add up to 1 as far as the fit is good; and how far the fit is
        from the target: the norm of what is left over that of the target, 0 to 1.

    Raises:
        UsageError: no snapshot, a step that is not above 0, or the same profile twice.
    """
    _check(snapshots, target)
    matrix = np.array([[overlap(a, b) for b in snapshots] for a in snapshots])
    right = np.array([overlap(a, target) for a in snapshots])
    # Scaled to a diagonal of 1: the norms of the profiles differ by orders of magnitude.
    scale = 1 / np.sqrt(np.diagonal(matrix))
    solved, *_ = np.linalg.lstsq(matrix * np.outer(scale, scale), right * scale, rcond=1e-14)
    weights = solved * scale
    whole = overlap(target, target)
    left = max(0.0, whole - 2 * float(weights @ right) + float(weights @ matrix @ weights))
    return tuple(float(w) for w in weights), math.sqrt(left / whole)


def _check(snapshots: Sequence[Profile], target: Profile) -> None:
    if not snapshots:
        raise UsageError("post-hoc EMA needs at least one snapshot.")
    odd = [p.step for p in (*snapshots, target) if not p.step > 0]
    if odd:
        raise UsageError(f"a snapshot is of step {odd[0]:g}; steps count from 1.")
    twice = [p for i, p in enumerate(snapshots) if p in snapshots[:i]]
    if twice:
        raise UsageError(
            f"step {twice[0].step:g} with sigma_rel {twice[0].sigma_rel:g} is there twice; "
            "give each snapshot once."
        )
