"""What a sampler is: one way through the noise, under the names every tool gives it.

A sampler stands on one scheduler class of diffusers plus options; the noise schedule (``karras`` …)
is a choice of its own, as in A1111 since 1.9 and in ComfyUI. Models trained by flow matching have a
class of their own for each sampler that can walk their straighter way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Final

from memcard.core.registry import Registry
from memcard.errors import UsageError
from memcard.generation.schedule import SCHEDULES, Schedule

__all__ = ["EDM", "FLOW", "SCHEDULES", "Sampler", "Schedule"]

FLOW: Final = frozenset({"flow", "flow_prediction"})
# Models of continuous noise levels as Karras et al. 2022 have them; the second says v.
EDM: Final = frozenset({"edm", "edm_v_prediction"})
_EDM_SCHEDULES: Final = ("karras", "exponential")
_FLOW_EULER: Final = "scheduling_flow_match_euler_discrete.FlowMatchEulerDiscreteScheduler"
_SHELF: Final = "memcard.generation.samplers"
_OURS: Final = "memcard."  # a class of this package; all others are below diffusers.schedulers


@dataclass(frozen=True, slots=True)
class Sampler:
    """One sampler. The file name in ``generation/samplers`` is its public name.

    Attributes:
        a1111: the name in A1111 and in its image texts; where it has none, the usual one.
        comfyui: ``sampler_name`` in ComfyUI; empty where it has none.
        diffusers: ``module.Class`` below ``diffusers.schedulers``.
        source: the paper.
        options: arguments for the class, above those of the family.
        schedules: noise schedules it knows for models that say the noise or v.
        evaluations: runs of the UNet per step.
        random: draws fresh noise in every step.
        aliases: what else it is called.
        automatic: the schedule A1111 means by "Automatic".
        flow: ``module.Class`` for models trained by flow matching; empty where there is none.
        flow_options: arguments for that class.
        flow_schedules: noise schedules it knows for them.
        edm: ``module.Class`` for models of EDM; empty where there is none.
        edm_options: arguments for that class.
        zero_snr: whether it can begin at noise without any signal.
        most_steps: it has no more; None is any number.
    """

    a1111: str
    comfyui: str
    diffusers: str
    source: str
    options: Mapping[str, Any] = field(default_factory=dict)
    schedules: tuple[str, ...] = tuple(k for k, s in SCHEDULES.items() if s.models != "flow")
    evaluations: int = 1
    random: bool = False
    aliases: tuple[str, ...] = ()
    automatic: str = "normal"
    flow: str = ""
    flow_options: Mapping[str, Any] = field(default_factory=dict)
    flow_schedules: tuple[str, ...] = tuple(k for k, s in SCHEDULES.items() if s.models != "noise")
    edm: str = ""
    edm_options: Mapping[str, Any] = field(default_factory=dict)
    zero_snr: bool = True
    most_steps: int | None = None

    @property
    def title(self) -> str:
        """What people call it."""
        return self.a1111

    def scheduler(
        self, family: Mapping[str, Any], *, schedule: str = "normal", prediction_type: str
    ) -> Any:
        """Return a fresh diffusers scheduler.

        Args:
            family: arguments the family asks for (betas, offsets, shift); those the class does not
                take are left out.
            schedule: one of ``schedules``.
            prediction_type: ``epsilon``, ``v_prediction``, ``flow``, ``edm`` or ``edm_v_prediction``. A
                scheduler for ``flow`` takes ``sigmas`` and ``mu`` in ``set_timesteps`` as diffusers' Euler for flows does.

        Raises:
            UsageError: this sampler does not know the schedule or cannot do what the family asks for.
        """
        self.check(schedule, prediction_type)
        if prediction_type in FLOW:
            return self._flow(family, SCHEDULES[schedule])
        if prediction_type in EDM:
            return self._edm(family, schedule, prediction_type)
        from memcard.generation._schedulers import own_options, taken, with_levels

        chosen = SCHEDULES[schedule]
        cls = _load(self.diffusers)
        wanted = {**family, **self.options}
        zero = bool(family.get("rescale_betas_zero_snr"))
        if zero:
            wanted |= self._zero_snr(cls, family, prediction_type)
        native = bool(chosen.options) and taken(cls, chosen.options) == chosen.options
        # Of levels far above the usual, many share diffusers' whole time steps: ours are not rounded.
        if native and not (zero and "timestep_spacing" not in chosen.options):
            wanted |= chosen.options
        elif chosen.levels is not None:
            cls = with_levels(cls, chosen.levels)
            wanted |= own_options(cls)
        return cls(**{**taken(cls, wanted), "prediction_type": prediction_type})

    def check(self, schedule: str, prediction_type: str, *, steps: int = 1) -> None:
        """Say whether it can.

        Raises:
            UsageError: it does not know the schedule, cannot run a model of flow matching, or has
                fewer steps.
        """
        if self.most_steps is not None and steps > self.most_steps and prediction_type not in FLOW:
            raise UsageError(
                f"{self.a1111} has at most {self.most_steps} steps, those its models were distilled "
                f"on; {steps} were asked for. Usual are 4 to 8."
            )
        if prediction_type in FLOW and not self.flow:
            able = _those(lambda sampler: bool(sampler.flow))
            raise UsageError(
                f"{self.a1111} cannot run a model trained by flow matching. These can: {able}."
            )
        if prediction_type in EDM and not self.edm:
            able = _those(lambda sampler: bool(sampler.edm))
            raise UsageError(
                f"{self.a1111} cannot run a model of continuous noise levels (EDM), as Playground 2.5 and "
                f"CosXL are. These can: {able}."
            )
        if schedule not in (known := self.known(prediction_type)):
            raise UsageError(
                f"{self.a1111} has no schedule {schedule!r}"
                f"{' for flow matching' if prediction_type in FLOW else ''}"
                f"{' for EDM' if prediction_type in EDM else ''}. "
                f"It has: {', '.join(known)}."
            )

    def known(self, prediction_type: str) -> tuple[str, ...]:
        """Return the schedules it can do for models that say this; none if it cannot run them."""
        if prediction_type in EDM:
            return _EDM_SCHEDULES if self.edm else ()
        if prediction_type not in FLOW:
            return self.schedules
        return self.flow_schedules if self.flow else ()

    def _edm(self, family: Mapping[str, Any], schedule: str, prediction_type: str) -> Any:
        from memcard.generation._schedulers import taken

        cls = _load(self.edm)
        kind = "epsilon" if prediction_type == "edm" else "v_prediction"
        own = {"sigma_schedule": schedule, "prediction_type": kind}
        return cls(**taken(cls, {**family, **self.edm_options, **own}))

    def _flow(self, family: Mapping[str, Any], schedule: Schedule) -> Any:
        from memcard.generation._schedulers import flow, taken

        usual = _load(_FLOW_EULER)

        own = bool(schedule.options) and taken(usual, schedule.options) == schedule.options
        levels = None if own else schedule.levels
        spaced = {**family, **(schedule.options if own else {})}
        cls = _load(self.flow)
        if cls is usual and levels is None:
            return cls(**taken(cls, {**spaced, **self.flow_options}))
        options = {key: spaced[key] for key in ("num_train_timesteps",) if key in spaced}
        return flow(cls, spaced, levels)(**options, **self.flow_options)

    def _zero_snr(
        self, cls: type[Any], family: Mapping[str, Any], prediction_type: str
    ) -> dict[str, Any]:
        """Return the arguments for a family whose training ends in noise alone."""
        from memcard.generation._schedulers import taken, zero_snr

        if not self.zero_snr:
            able = _those(lambda sampler: sampler.zero_snr)
            raise UsageError(
                f"{self.a1111} cannot begin at noise without any signal, as this checkpoint's training "
                f"did (zero terminal SNR). These can: {able}."
            )
        if prediction_type == "epsilon":
            raise UsageError(
                "this checkpoint was trained with zero terminal SNR: at the first step nothing of the "
                "picture is left, so the noise says nothing about it. Set prediction_type to "
                "v_prediction."
            )
        spaced = {"timestep_spacing": "trailing"}  # the only spacing that begins at the last level
        if taken(cls, {"rescale_betas_zero_snr": True}):
            return spaced
        return {**spaced, "trained_betas": zero_snr(family)}


def _those(wanted: Callable[[Sampler], bool]) -> str:
    samplers: Registry[Sampler] = Registry(_SHELF)
    return ", ".join(name for name, sampler in samplers.items() if wanted(sampler))


def _load(path: str) -> type[Any]:
    module, _, name = path.rpartition(".")
    place = module if path.startswith(_OURS) else f"diffusers.schedulers.{module}"
    cls: type[Any] = getattr(import_module(place), name)
    return cls
