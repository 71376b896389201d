"""The training loop: noise, guess, loss, step.

A step is a function of the weights, the optimizer's memory and (settings, step number), so a run that goes
on from a save makes the bits it would have made without the stop, as far as the device itself repeats its bits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn

from memcard.core.extras import require
from memcard.errors import MismatchError, UsageError
from memcard.training.finetune.adapters import gradients
from memcard.training.finetune.crew import Crew
from memcard.training.finetune.lessons import Batch, Lessons
from memcard.training.finetune.model import Model
from memcard.training.finetune.settings import Settings, lr_factor
from memcard.training.losses import Objective
from memcard.training.noise import Flow, flux_shift

_BETAS: Final = (0.9, 0.99)
_SMALL: Final = 100_000_000  # parameters; below, a second thread costs more than it gives
_HALVES: Final = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Average(Protocol):
    """What the loop needs of an average of the weights."""

    def update(self) -> None:
        """Follow the weights after a step."""
        ...


@dataclass(frozen=True, slots=True)
class Moment:
    """What is known after a step.

    Attributes:
        step: steps done.
        loss: mean over the pictures of this step.
        lr: learning rate of this step.
        norm: length of the gradients before they were shortened.
        epoch: of its last batch, counted from 0.
        seconds: it took.
    """

    step: int
    loss: float
    lr: float
    norm: float
    epoch: int
    seconds: float


def optimizer(learnt: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """Return the optimizer, with a group for the text encoders if they have a rate of their own.

    Raises:
        UsageError: it is not installed.
    """
    unet = [p for name, p in learnt.named_parameters() if not name.startswith("text_encoder")]
    text = [p for name, p in learnt.named_parameters() if name.startswith("text_encoder")]
    rates = (settings.lr, settings.lr if settings.text_lr is None else settings.text_lr)
    groups = [
        {"params": params, "lr": rate, "peak": rate}
        for params, rate in zip((unet, text), rates, strict=True)
        if params
    ]
    more: dict[str, Any] = {"lr": settings.lr, "weight_decay": settings.weight_decay}
    if settings.optimizer == "adafactor":
        return torch.optim.Adafactor(groups, **more)
    if settings.optimizer == "adamw8bit":
        require("8bit", what="AdamW with 8-bit memory")
        from bitsandbytes.optim import AdamW8bit  # type: ignore[import-not-found]

        found: torch.optim.Optimizer = AdamW8bit(groups, betas=_BETAS, **more)
        return found
    return torch.optim.AdamW(groups, betas=_BETAS, **more)


class Loop:
    """Takes steps."""

    def __init__(
        self,
        model: Model,
        learnt: nn.Module,
        lessons: Lessons,
        settings: Settings,
        stepper: torch.optim.Optimizer,
        average: Average | None = None,
    ) -> None:
        """Put the parts together.

        Args:
            model: the base, what learns in it unfrozen.
            learnt: what learns, as ``adapters.choose`` gave it.
            lessons: prepared.
            settings: of the run.
            stepper: from ``optimizer``.
            average: follows the weights.

        Raises:
            UsageError: fp16 on a device that cannot scale gradients.
        """
        if settings.precision == "fp16" and model.device.type != "cuda":
            raise UsageError(
                f"fp16 cannot train on {model.device.type}: its gradients vanish. Use --precision bf16 or fp32."
            )
        self._model, self._learnt, self._lessons = model, learnt, lessons
        self._settings, self._stepper, self._average = settings, stepper, average
        self.scaler = torch.amp.GradScaler("cuda") if settings.precision == "fp16" else None
        self._crew = Crew()
        self._objective = Objective.of(
            *(model.schedule, model.prediction),
            min_snr=settings.min_snr,
            offset=settings.noise_offset,
        )

    def run(self, start: int) -> Iterator[Moment]:
        """Yield after each step until all are done.

        Args:
            start: steps done before.

        Raises:
            MismatchError: the loss is no number.
        """
        with running(self._model):
            for step in range(start + 1, self._settings.steps + 1):
                yield self._step(step)

    def _step(self, step: int) -> Moment:
        began = time.perf_counter()
        settings, losses = self._settings, list[float]()
        factor = lr_factor(settings, step)
        for group in self._stepper.param_groups:
            group["lr"] = group["peak"] * factor
        epoch = 0
        for part in range(settings.accumulate):
            number = self._crew.batch((step - 1) * settings.accumulate + part)
            batch = self._lessons.batch(number)
            loss, epoch = self._loss(batch), batch.epoch
            losses.append(loss.item())
            self._backward(loss / settings.accumulate)
        norm = self._update()
        loss_now = self._crew.mean(sum(losses) / len(losses), self._model.device)
        if not math.isfinite(loss_now):
            raise MismatchError(
                f"step {step}: the loss is {loss_now}. The weights are beyond repair; go back to an earlier "
                f"save, or begin again with a learning rate below {settings.lr:g}"
                + (", or with --precision fp32." if settings.precision != "fp32" else ".")
            )
        if self._average is not None:
            self._average.update()
        seconds = time.perf_counter() - began
        return Moment(step, loss_now, settings.lr * factor, norm, epoch, seconds)

    def _loss(self, batch: Batch) -> Tensor:
        lesson = self._at(batch.latents).lesson(batch.latents, batch.chance)
        with autocast(self._model.device, self._settings.precision):
            said = self._model.predict(lesson.noisy, lesson.times, batch.words, batch.sizes)
        return self._objective.loss(said, lesson)

    def _at(self, latents: Tensor) -> Objective:
        """Return what is asked of pictures of this size: some flows look at more noise in larger ones."""
        if not self._model.schedule.get("use_dynamic_shifting"):
            return self._objective
        tokens = latents.shape[-2] // 2 * (latents.shape[-1] // 2)
        return replace(
            self._objective, schedule=Flow(shift=flux_shift(tokens, self._model.schedule))
        )

    def _backward(self, loss: Tensor) -> None:
        scaled = loss if self.scaler is None else self.scaler.scale(loss)
        scaled.backward()  # type: ignore[no-untyped-call]

    def _update(self) -> float:
        if self.scaler is not None:
            self.scaler.unscale_(self._stepper)
        self._crew.average(self._learnt)
        norm = gradients(self._learnt, self._settings.clip or math.inf)
        if self.scaler is None:
            self._stepper.step()
        else:
            self.scaler.step(self._stepper)
            self.scaler.update()
        self._stepper.zero_grad(set_to_none=True)
        return norm


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Return the context in which a network computes in ``precision``."""
    half = _HALVES.get(precision)
    return nullcontext() if half is None else torch.autocast(device.type, dtype=half)


def _flushes() -> bool:
    """Tell whether denormal numbers are zero already; torch has a setter alone."""
    return torch.tensor([1e-40]).mul(1.0).item() == 0.0


@contextmanager
def running(model: Model) -> Iterator[None]:
    """Train a small model on one thread of the CPU, and let denormal numbers be zero there.

    Layers of the starter are too short to share between threads; denormals made some of its steps six
    times slower.
    """
    if model.device.type != "cpu":
        yield
        return
    before, flushed = torch.get_num_threads(), _flushes()
    torch.set_flush_denormal(True)
    if sum(p.numel() for p in model.unet.parameters()) < _SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.set_flush_denormal(flushed)


def smoothed(losses: Iterable[float], *, keep: float = 0.95) -> list[float]:
    """Return a running average without the pull of its start: single losses say little."""
    found, total, weight = list[float](), 0.0, 0.0
    for loss in losses:
        total, weight = keep * total + (1 - keep) * loss, keep * weight + 1 - keep
        found.append(total / weight)
    return found
