"""What a denoiser is asked, the right answer, and how much a wrong one counts.

    objective = Objective.of(scheduler_config, "v_prediction", min_snr=5)
    lesson = objective.lesson(latents, generator)
    said = unet(lesson.noisy, lesson.times, text)
    objective.loss(said, lesson).backward()

Sources: Ho et al. 2020, arXiv:2006.11239 (epsilon); Salimans and Ho 2022, arXiv:2202.00512 (v); Esser et al.
2024, arXiv:2403.03206 (flow); Hang et al. 2023, arXiv:2303.09556 (min-SNR); Yu et al. 2023, arXiv:2310.08442
(debiased).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from memcard.errors import UnsupportedError, UsageError
from memcard.training.noise import Chance, Diffusion, Flow, Schedule, mix, noise

Prediction: TypeAlias = Literal["epsilon", "v_prediction", "sample", "flow"]
_LEAST_SNR: Final = 1e-8  # below it a weight of 1/SNR is of no use
_MOST: Final = 1e3  # of debiased weights: the last steps have an SNR near 0


@dataclass(frozen=True, slots=True)
class Lesson:
    """One batch to learn from.

    Attributes:
        noisy: what the model sees, float32, shape of the latents.
        times: at which moment; int64 steps of a diffusion, float32 t in 0..1 of a flow. Shape [batch].
        target: the right answer, float32.
        weights: how much each sample counts, float32, shape [batch].
    """

    noisy: Tensor
    times: Tensor
    target: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Objective:
    """What to predict at which noise levels.

    Attributes:
        schedule: the noise levels.
        prediction: what the model says.
        min_snr: gamma, 5 in the paper: easy steps count less. None weighs all alike.
        debias: weigh by 1 / sqrt(SNR), for ``epsilon`` only.
        offset: strength of offset noise.
        perturb: share of a second noise the model sees but need not tell, 0.1 in the paper.
    """

    schedule: Schedule
    prediction: Prediction
    min_snr: float | None = None
    debias: bool = False
    offset: float = 0.0
    perturb: float = 0.0

    def __post_init__(self) -> None:
        if self.prediction not in get_args(Prediction):
            raise UnsupportedError(
                f"prediction {self.prediction!r} cannot be trained; only {', '.join(get_args(Prediction))}."
            )
        if faults := self._faults():
            raise UsageError("; ".join(faults) + ".")

    @classmethod
    def of(cls, config: Mapping[str, Any], prediction: Prediction, **wishes: Any) -> Objective:
        """Make the one of a base.

        Args:
            config: of its scheduler, as a family (``defaults.extra["scheduler"]``) or a diffusers folder has it.
            prediction: as ``inspect`` found it.
            wishes: the other attributes.
        """
        if prediction == "flow":
            # where the shift follows the size of the picture, the caller knows it (flux_shift)
            shift = 1.0 if config.get("use_dynamic_shifting") else config.get("shift") or 1.0
            return cls(Flow(shift=float(shift)), prediction, **wishes)
        return cls(Diffusion.of(config), prediction, **wishes)

    def lesson(self, clean: Tensor, chance: Chance) -> Lesson:
        """Draw noise and moments for a batch.

        Args:
            clean: latents [batch, channels, …] as the model takes them.
            chance: one generator, or one per sample: then a sample gets the same in any batch.
        """
        added = noise(clean.shape, chance, offset=self.offset).to(clean.device)
        times = self.schedule.draw(len(clean), chance).to(clean.device)
        seen = added
        if self.perturb:
            seen = added + self.perturb * noise(clean.shape, chance).to(clean.device)
        noisy = mix(clean, seen, self.schedule, times)
        return Lesson(noisy, times, self.target(clean, added, times), self.weights(times))

    def target(self, clean: Tensor, added: Tensor, times: Tensor) -> Tensor:
        """Return the right answer, float32."""
        clean, added = clean.float(), added.float()
        if self.prediction == "epsilon":
            return added
        if self.prediction == "sample":
            return clean
        if self.prediction == "flow":
            return added - clean
        keep, take = (
            s.view(-1, *(1 for _ in clean.shape[1:])) for s in self.schedule.shares(times)
        )
        return keep * added - take * clean

    def weights(self, times: Tensor) -> Tensor:
        """Return how much each sample counts, float32."""
        if self.debias:
            snr = self.schedule.snr(times).clamp(min=1 / _MOST**2)
            return snr.rsqrt()
        if self.min_snr is None:
            return torch.ones(times.shape, device=times.device)
        return min_snr(self.schedule.snr(times), self.min_snr, self.prediction)

    def per_sample(self, said: Tensor, lesson: Lesson) -> Tensor:
        """Return each sample's mean squared error times its weight, float32, shape [batch]."""
        wrong = (said.float() - lesson.target).square()
        return wrong.flatten(1).mean(dim=1) * lesson.weights

    def loss(self, said: Tensor, lesson: Lesson) -> Tensor:
        """Return the mean over the batch; a scalar."""
        return self.per_sample(said, lesson).mean()

    def _faults(self) -> list[str]:
        found = []
        if isinstance(self.schedule, Flow) != (self.prediction == "flow"):
            found.append(
                f"{self.prediction} does not go with a {type(self.schedule).__name__.lower()} schedule"
            )
        if self.prediction == "epsilon" and getattr(self.schedule, "ends_in_noise", False):
            found.append(
                "the schedule ends in nothing but noise, where epsilon says nothing of the picture; "
                "train v_prediction, or leave the last step out (end=)"
            )
        if self.min_snr is not None and (self.prediction == "flow" or not self.min_snr > 0):
            found.append(f"min_snr is {self.min_snr:g}; it is above 0, and not for flows")
        if self.debias and (self.prediction != "epsilon" or self.min_snr is not None):
            found.append("debias is for epsilon, and in place of min_snr")
        if self.offset < 0 or self.perturb < 0:
            found.append(f"offset is {self.offset:g}, perturb is {self.perturb:g}; both start at 0")
        return found


def min_snr(snr: Tensor, gamma: float, prediction: Prediction) -> Tensor:
    """Return the min-SNR weights of arXiv:2303.09556, for a loss on what is predicted.

    The paper weighs the error of the picture by min(SNR, gamma). An error of epsilon is SNR times as large,
    one of v is SNR + 1 times as large, so these are divided by it. At SNR 0 epsilon's weight is its limit, 1.
    """
    least = snr.clamp(max=gamma)
    if prediction == "sample":
        return least
    if prediction == "v_prediction":
        return least / (snr + 1)
    floor = snr.clamp(min=_LEAST_SNR)
    return floor.clamp(max=gamma) / floor
