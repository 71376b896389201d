"""What a sampler is: one way through the noise, under the names every tool gives it.

A sampler stands on one scheduler class of diffusers plus options; the noise schedule (``karras`` …)
is a choice of its own, as in A1111 since 1.9 and in ComfyUI.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Final

from memcard.errors import UsageError

# name -> (options for diffusers, A1111's "Schedule type")
SCHEDULES: Final[Mapping[str, tuple[Mapping[str, Any], str]]] = {
    "normal": ({}, "Normal"),
    "karras": ({"use_karras_sigmas": True}, "Karras"),
    "exponential": ({"use_exponential_sigmas": True}, "Exponential"),
    "trailing": ({"timestep_spacing": "trailing"}, "SGM Uniform"),
}


@dataclass(frozen=True, slots=True)
class Sampler:
    """One sampler. The file name in ``generation/samplers`` is its public name.

    Attributes:
        a1111: the name in A1111 and in its image texts.
        comfyui: ``sampler_name`` in ComfyUI.
        diffusers: ``module.Class`` below ``diffusers.schedulers``.
        source: the paper.
        options: arguments for the class, above those of the family.
        schedules: noise schedules it knows.
        evaluations: runs of the UNet per step.
        random: draws fresh noise in every step.
    """

    a1111: str
    comfyui: str
    diffusers: str
    source: str
    options: Mapping[str, Any] = field(default_factory=dict)
    schedules: tuple[str, ...] = tuple(SCHEDULES)
    evaluations: int = 1
    random: bool = False

    @property
    def title(self) -> str:
        """What people call it."""
        return self.a1111

    def scheduler(
        self, family: Mapping[str, Any], *, schedule: str = "normal", prediction_type: str
    ) -> Any:
        """Return a fresh diffusers scheduler.

        Args:
            family: arguments the family asks for (betas, offsets); those the class does not take
                are left out.
            schedule: one of ``schedules``.
            prediction_type: ``epsilon`` or ``v_prediction``.

        Raises:
            UsageError: this sampler does not know the schedule.
        """
        if schedule not in self.schedules:
            raise UsageError(
                f"{self.a1111} has no schedule {schedule!r}. It has: {', '.join(self.schedules)}."
            )
        module, _, name = self.diffusers.rpartition(".")
        cls = getattr(import_module(f"diffusers.schedulers.{module}"), name)
        known = inspect.signature(cls.__init__).parameters
        wanted = {**family, **self.options, **SCHEDULES[schedule][0]}
        taken = {key: value for key, value in wanted.items() if key in known}
        return cls(**taken, prediction_type=prediction_type)
