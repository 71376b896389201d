"""Noise for the training of denoisers: how much, at which moments, and of which kind.

Everything is drawn from generators that the caller gives: one for the batch, or one per sample, so that a
sample's noise depends on nothing but itself and a resumed training draws the same.

Sources: Ho et al. 2020, arXiv:2006.11239 (diffusion); Lin et al. 2023, arXiv:2305.08891 (zero terminal SNR);
Lipman et al. 2022, arXiv:2210.02747 and Esser et al. 2024, arXiv:2403.03206 (flows, where to look on them);
Guttenberg 2023, "Diffusion with Offset Noise"; Ning et al. 2023, arXiv:2301.11706 (perturbation).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import torch
from torch import Generator, Tensor

from memcard.errors import UnsupportedError, UsageError

Chance: TypeAlias = Generator | Sequence[Generator]
Density: TypeAlias = Literal["uniform", "logit_normal", "mode"]

_FLUX_TOKENS: Final = (256, 4096)  # of the smallest and the largest picture
_FLUX_MU: Final = (0.5, 1.15)


@dataclass(frozen=True)
class Diffusion:
    """Noise levels in steps, x_t = sqrt(a_t) x + sqrt(1 - a_t) e.

    Attributes:
        keep: a_t, the share of the picture's variance that is left at each step; float32, falling.
        first: first step to draw from.
        end: behind the last one; None for all.
    """

    keep: Tensor
    first: int = 0
    end: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.first < self._end <= len(self.keep):
            raise UsageError(
                f"steps {self.first} to {self._end} are not among the {len(self.keep)} there are."
            )

    @classmethod
    def of(cls, config: Mapping[str, Any], *, first: int = 0, end: int | None = None) -> Diffusion:
        """Make the one of a scheduler's config, as families and diffusers folders have it.

        Args:
            config: ``num_train_timesteps``, ``beta_start``, ``beta_end``, ``beta_schedule``,
                ``trained_betas``, ``rescale_betas_zero_snr``; the rest is not looked at.
            first: first step to draw from.
            end: behind the last one; None for all.

        Raises:
            UnsupportedError: the schedule of betas is not known.
        """
        keep = torch.cumprod(1 - _betas(config), dim=0)
        if config.get("rescale_betas_zero_snr"):
            keep = zero_terminal_snr(keep)
        return cls(keep, first, end)

    @property
    def _end(self) -> int:
        return len(self.keep) if self.end is None else self.end

    @property
    def ends_in_noise(self) -> bool:
        """Tell whether nothing of the picture is left at the last step that is drawn."""
        return float(self.keep[self._end - 1]) == 0

    def draw(self, count: int, chance: Chance) -> Tensor:
        """Return steps, int64 of shape [count]."""
        return _each(
            count, chance, lambda n, g: torch.randint(self.first, self._end, (n,), generator=g)
        )

    def snr(self, times: Tensor) -> Tensor:
        """Return a_t / (1 - a_t), float32, shape of ``times``."""
        keep = self.keep.to(times.device)[times]
        return keep / (1 - keep)

    def shares(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """Return what picture and noise are multiplied with, float32."""
        keep = self.keep.to(times.device)[times]
        return keep.sqrt(), (1 - keep).sqrt()


@dataclass(frozen=True)
class Flow:
    """Straight lines from the picture to noise, x_t = (1 - t) x + t e, t from 0 to 1.

    Attributes:
        density: where to look: ``uniform``; ``logit_normal``, mostly in the middle, as SD3 and Flux were
            trained; ``mode``, SD3's other one.
        mean: of the logit normal; above 0: more noise.
        std: of the logit normal.
        mode_scale: of ``mode``; 0 is uniform.
        shift: t becomes s t / (1 + (s - 1) t); 3 for SD3 at 1024 pixels, ``flux_shift`` for Flux.
    """

    density: Density = "logit_normal"
    mean: float = 0.0
    std: float = 1.0
    mode_scale: float = 1.29
    shift: float = 1.0

    def __post_init__(self) -> None:
        if self.density not in {"uniform", "logit_normal", "mode"}:
            raise UsageError(f"density is {self.density!r}: uniform, logit_normal or mode.")
        if not (self.std > 0 and self.shift > 0):
            raise UsageError(f"std is {self.std:g}, shift is {self.shift:g}; both are above 0.")

    def draw(self, count: int, chance: Chance) -> Tensor:
        """Return t, float32 of shape [count], 0 to 1."""
        t = _each(count, chance, self._raw)
        return self.shift * t / (1 + (self.shift - 1) * t)

    def _raw(self, count: int, chance: Generator) -> Tensor:
        if self.density == "logit_normal":
            normal = torch.randn(count, generator=chance)
            return torch.sigmoid(self.mean + self.std * normal)
        u = torch.rand(count, generator=chance)
        if self.density == "uniform":
            return u
        bent = torch.cos(math.pi / 2 * u) ** 2 - 1 + u
        return (1 - u - self.mode_scale * bent).clamp(0, 1)

    def snr(self, times: Tensor) -> Tensor:
        """Return ((1 - t) / t) squared, shape of ``times``."""
        return ((1 - times) / times).square()

    def shares(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """Return what picture and noise are multiplied with."""
        return 1 - times, times


Schedule: TypeAlias = Diffusion | Flow


def flux_shift(tokens: int, config: Mapping[str, Any] | None = None) -> float:
    """Return Flux's shift for a picture of so many tokens (2 by 2 latents, 16 by 16 pixels).

    Its logarithm grows evenly from 0.5 at 256 tokens to 1.15 at 4096, or as the scheduler's ``config`` says.
    """
    said = config or {}
    few = said.get("base_image_seq_len", _FLUX_TOKENS[0])
    many = said.get("max_image_seq_len", _FLUX_TOKENS[1])
    low, high = said.get("base_shift", _FLUX_MU[0]), said.get("max_shift", _FLUX_MU[1])
    return math.exp(low + (high - low) * (tokens - few) / (many - few))


def zero_terminal_snr(keep: Tensor) -> Tensor:
    """Return noise levels that end in nothing but noise, and begin where they began.

    The square roots of ``keep`` are moved and stretched. A model that was trained so can paint pictures that
    are dark or bright as a whole; it cannot say the noise at the last step, so it predicts v.

    Source: arXiv:2305.08891, algorithm 1.
    """
    root = keep.sqrt()
    first, last = root[0].clone(), root[-1].clone()
    moved: Tensor = (root - last) * (first / (first - last))
    return moved.square()


def noise(shape: Sequence[int], chance: Chance, *, offset: float = 0.0) -> Tensor:
    """Return unit normal noise of ``shape`` [batch, channels, …], float32.

    Args:
        shape: of the latents.
        chance: one generator, or one per sample.
        offset: strength of a second noise that is the same all over a channel; 0.05 to 0.1 teaches dark and
            bright pictures to models whose last step is not all noise. 0 draws nothing.
    """
    count, *rest = shape
    found = _each(count, chance, lambda n, g: torch.randn((n, *rest), generator=g, device=g.device))
    if offset:
        flat = (rest[0], *(1 for _ in rest[1:]))
        found = found + offset * _each(
            count, chance, lambda n, g: torch.randn((n, *flat), generator=g, device=g.device)
        )
    return found


def mix(clean: Tensor, added: Tensor, schedule: Schedule, times: Tensor) -> Tensor:
    """Return the pictures with noise, float32."""
    keep, take = (_wide(s, clean) for s in schedule.shares(times))
    return keep * clean.float() + take * added.float()


def _wide(shares: Tensor, like: Tensor) -> Tensor:
    """Return one number per sample, shaped to be multiplied with ``like``."""
    return shares.to(like.device).view(-1, *(1 for _ in like.shape[1:]))


def _each(count: int, chance: Chance, draw: Callable[[int, Generator], Tensor]) -> Tensor:
    """Draw from the one generator, or one sample from each."""
    if isinstance(chance, Generator):
        return draw(count, chance)
    if len(chance) != count:
        raise UsageError(f"{len(chance)} generators for {count} samples; give one for each.")
    return torch.cat([draw(1, g) for g in chance])


def _betas(config: Mapping[str, Any]) -> Tensor:
    """Return beta_t, float32: in the arithmetic that inference uses, so both know the same levels."""
    if (given := config.get("trained_betas")) is not None:
        return torch.as_tensor(given, dtype=torch.float32)
    count, name = (
        int(config.get("num_train_timesteps", 1000)),
        config.get("beta_schedule", "linear"),
    )
    low, high = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
    if name == "linear":
        return torch.linspace(low, high, count)
    if name == "scaled_linear":
        return torch.linspace(low**0.5, high**0.5, count).square()
    if name == "squaredcos_cap_v2":
        left = [math.cos((i / count + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(count + 1)]
        return torch.tensor([min(1 - left[i + 1] / left[i], 0.999) for i in range(count)])
    raise UnsupportedError(
        f"beta_schedule {name!r} is not known: linear, scaled_linear or squaredcos_cap_v2. "
        "Give trained_betas instead."
    )
