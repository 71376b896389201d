"""How the guess with the prompt and the one without become one.

Source: Ho and Salimans 2022, arXiv:2207.12598; Lin et al. 2023, arXiv:2305.08891, section 3.4 (rescale);
Saharia et al. 2022, arXiv:2205.11487, section 2.3 (dynamic thresholding); Kynkäänniemi et al. 2024,
arXiv:2404.07724 (guidance in an interval of noise levels).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from memcard.generation.sampler import EDM, FLOW
from memcard.generation.settings import Settings


@dataclass(frozen=True, slots=True)
class Mixture:
    """What the denoiser sees at a moment: ``signal`` times the picture plus ``noise`` times unit noise.

    Attributes:
        signal, noise: as above.
        spread: of EDM, how far pictures spread (its sigma_data); 1 elsewhere.
    """

    signal: float
    noise: float
    spread: float = 1.0

    @property
    def level(self) -> float:
        """The noise level sigma of Karras et al.: noise over signal, 0 to infinity."""
        return self.noise / self.signal if self.signal else math.inf


def mixture(scheduler: Any, moment: Tensor | float, prediction_type: str) -> Mixture:
    """Return what the denoiser sees at one of a scheduler's time steps.

    Args:
        scheduler: of ``Sampler.scheduler``.
        moment: one of its ``timesteps``; between two whole steps the level's logarithm counts.
        prediction_type: what the denoiser says.
    """
    at = float(moment)
    if prediction_type in FLOW:
        share = at / scheduler.config.num_train_timesteps
        return Mixture(1 - share, share)
    if prediction_type in EDM:
        level, spread = math.exp(4 * at), float(scheduler.config.sigma_data)
        signal = 1 / math.hypot(level, spread)
        return Mixture(signal, level * signal, spread)
    alphas = scheduler.alphas_cumprod
    low = min(int(at), len(alphas) - 1)
    high = min(low + 1, len(alphas) - 1)
    first, second = (_level(float(alphas[i])) for i in (low, high))
    level = math.exp(math.log(first) * (1 - (at - low)) + math.log(second) * (at - low))
    signal = 1 / math.sqrt(1 + level**2)
    return Mixture(signal, level * signal)


def _level(alpha: float) -> float:
    # A last step without any signal has no finite level; diffusers gives it this little of it.
    alpha = max(alpha, 2.0**-24)
    return math.sqrt((1 - alpha) / alpha)


def guided(settings: Settings, level: float) -> bool:
    """Say whether the prompt is weighed against the negative one at this noise level.

    Outside the interval of ``cfg_low`` and ``cfg_high`` the guess with the prompt is taken as it is; the
    other one need not be asked for.
    """
    if settings.cfg <= 1:
        return False
    return level > settings.cfg_low and (not settings.cfg_high or level <= settings.cfg_high)


def combine(
    without: Tensor,
    with_prompt: Tensor,
    settings: Settings,
    seen: Tensor | None = None,
    at: Mixture | None = None,
) -> Tensor:
    """Return the guided guess, in the shape of both.

    Args:
        without: the guess about the negative prompt, [1, ...].
        with_prompt: the guess about the prompt.
        settings: how far to go from one to the other, and how to keep that in bounds.
        seen: what the denoiser was shown; only ``threshold`` needs it.
        at: how much noise was in it; only ``threshold`` needs it.
    """
    return bounded(
        without + settings.cfg * (with_prompt - without), with_prompt, settings, seen, at
    )


def bounded(
    guess: Tensor,
    with_prompt: Tensor,
    settings: Settings,
    seen: Tensor | None = None,
    at: Mixture | None = None,
) -> Tensor:
    """Return a guided guess kept in bounds; arguments as of ``combine``."""
    if settings.cfg_rescale:
        axes = list(range(1, guess.ndim))
        wanted = with_prompt.std(dim=axes, keepdim=True)
        rescaled = guess * (wanted / guess.std(dim=axes, keepdim=True))
        guess = settings.cfg_rescale * rescaled + (1 - settings.cfg_rescale) * guess
    if settings.threshold:
        assert seen is not None and at is not None, "the caller knows them"  # noqa: S101, PT018
        guess = _threshold(guess, with_prompt, settings, seen, at)
    return guess


def _threshold(
    guess: Tensor, with_prompt: Tensor, settings: Settings, seen: Tensor, at: Mixture
) -> Tensor:
    """Pull the picture a guess speaks of back into the range of the unguided one.

    Imagen clips pixels at a percentile s of their sizes and divides by s where s exceeds 1, the range of
    pixels. Latents have no such range; that of the guess with the prompt alone stands in for it.
    """
    kind = settings.prediction_type
    picture = picture_of(guess, seen.float(), at, kind)
    usual = _percentile(picture_of(with_prompt, seen.float(), at, kind), settings.threshold)
    bound = torch.maximum(_percentile(picture, settings.threshold), usual)
    inside = torch.minimum(torch.maximum(picture, -bound), bound) * (usual / bound)
    return guess_of(inside, seen.float(), at, kind).to(guess.dtype)


def _percentile(picture: Tensor, share: float) -> Tensor:
    """Return the size that this share of all values does not exceed, for each of the batch."""
    sizes = picture.abs().flatten(1)
    found = sizes.kthvalue(max(1, math.ceil(share * sizes.shape[1])), dim=1).values
    return found.reshape(-1, *[1] * (picture.ndim - 1)).clamp(min=1e-12)


def picture_of(guess: Tensor, seen: Tensor, at: Mixture, prediction_type: str) -> Tensor:
    """Return the picture without noise that a guess speaks of."""
    if prediction_type in FLOW:
        return seen - at.noise * guess
    if prediction_type in EDM:
        sign = 1 if prediction_type == "edm" else -1
        return at.spread**2 * at.signal * seen + sign * at.spread * at.noise * guess
    if prediction_type == "v_prediction":
        return at.signal * seen - at.noise * guess
    return (seen - at.noise * guess) / at.signal


def guess_of(picture: Tensor, seen: Tensor, at: Mixture, prediction_type: str) -> Tensor:
    """Return the guess that speaks of a picture; the inverse of ``picture_of``."""
    if prediction_type in EDM:
        sign = 1 if prediction_type == "edm" else -1
        return sign * (picture - at.spread**2 * at.signal * seen) / (at.spread * at.noise)
    if prediction_type == "v_prediction":
        return (at.signal * seen - picture) / at.noise
    if prediction_type in FLOW:
        return (seen - picture) / at.noise
    return (seen - at.signal * picture) / at.noise
