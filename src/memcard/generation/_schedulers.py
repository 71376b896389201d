"""Schedulers of diffusers with noise levels they do not have themselves.

Each is a subclass of the scheduler it stands in for, made on the spot: the steps are diffusers' own,
only the levels it walks through are given. ``flow`` does the same for models trained by flow matching:
the family's own spacing and shift come from diffusers' ``FlowMatchEulerDiscreteScheduler`` whatever the
solver is, so that a solver without a shift of its own samples the same levels.

Source: diffusers ``scheduling_flow_match_euler_discrete.py``, ``scheduling_unipc_multistep.py`` (levels of 1).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from torch import Tensor

from memcard.generation.schedule import moments_of

if TYPE_CHECKING:
    from memcard.generation.schedule import Array, Levels

# A solver that works with the logarithm of signal to noise cannot begin at no signal at all.
_HIGHEST: Final = 1 - 1e-6
# These cannot end at no noise at all either. In float32 their polynomials lose all digits nearer to 1.
_BOUNDED: Final = {"DEISMultistepScheduler", "SASolverScheduler"}
_HIGHEST_BOUNDED: Final = 1 - 1e-4
_LAST_BOUNDED: Final = 1e-3  # of the level before: what is left of the noise is not seen
_FINEST: Final = 1000  # entries of the table of levels of a flow, as many as its training steps


def with_levels(cls: type[Any], levels: Levels) -> type[Any]:
    """Return a scheduler class that walks through ``levels`` of its training.

    Most classes ask a method for Karras's levels, then make of them all they need (levels between,
    time steps, orders): these are built with ``use_karras_sigmas`` and asked here instead. The others
    have a plain list.
    """
    own: dict[str, Any] = {}
    if hasattr(cls, "_convert_to_karras"):

        def convert(self: Any, in_sigmas: Any, num_inference_steps: int | None = None) -> Array:
            del in_sigmas
            return levels(_table(self), num_inference_steps or self.num_inference_steps)

        own["_convert_to_karras"] = convert

    def set_timesteps(self: Any, num_inference_steps: int, device: Any = None, *more: Any) -> None:
        cls.set_timesteps(self, num_inference_steps, device, *more)
        if self.order == 1:
            table = _table(self)
            found = levels(table, num_inference_steps)
            _set(self, found, moments_of(table, found), device, _last(cls, found))
        # Dense levels may share a time step; the first one must not be looked up by it.
        self.set_begin_index(0)

    return type(cls.__name__, (cls,), {**own, "set_timesteps": set_timesteps})


def own_options(cls: type[Any]) -> dict[str, Any]:
    """Return what a class of ``with_levels`` must be built with."""
    return {"use_karras_sigmas": True} if hasattr(cls, "_convert_to_karras") else {}


def _table(scheduler: Any) -> Array:
    """Return the levels of training, ascending."""
    alphas = scheduler.alphas_cumprod.double().numpy()
    table: Array = ((1 - alphas) / alphas) ** 0.5
    return table


def flow(cls: type[Any], family: Mapping[str, Any], levels: Levels | None) -> type[Any]:
    """Return a solver class for models trained by flow matching.

    Its ``set_timesteps`` takes ``sigmas`` and ``mu`` as ``FlowMatchEulerDiscreteScheduler`` does.

    Args:
        cls: the solver.
        family: arguments for ``FlowMatchEulerDiscreteScheduler``: shift, dynamic shifting, options.
        levels: the schedule; None takes those of the family.
    """

    def set_timesteps(
        self: Any,
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: Any = None,
        mu: float | None = None,
    ) -> None:
        count = num_inference_steps if sigmas is None else len(sigmas)
        assert count is not None, "the caller says how many steps"  # noqa: S101
        if levels is None:
            found = _walked(family, count, sigmas, mu)
        else:
            table = _walked(family, _FINEST, np.linspace(1, 1 / _FINEST, _FINEST), mu)
            found = levels(table[::-1].copy(), count)
        cls.set_timesteps(self, count, device=device)
        moments = found * self.config.num_train_timesteps
        bounded = cls.__name__ in _BOUNDED
        if hasattr(self, "_sigma_to_alpha_sigma_t"):
            found = np.minimum(found, _HIGHEST_BOUNDED if bounded else _HIGHEST)
        _set(self, found, moments, device, _last(cls, found))

    def scale_noise(self: Any, sample: Any, timestep: Any, noise: Any) -> Any:
        level = (timestep / self.config.num_train_timesteps).reshape(-1, *[1] * (sample.ndim - 1))
        return level * noise + (1 - level) * sample

    own: dict[str, Any] = {"set_timesteps": set_timesteps}
    # SA-Solver's own way to put noise on a picture looks the time step up in a table no flow has.
    if not hasattr(cls, "scale_noise") and (
        not hasattr(cls, "add_noise") or cls.__name__ == "SASolverScheduler"
    ):
        own["scale_noise"] = scale_noise
    return type(cls.__name__, (cls,), own)


def _walked(family: Mapping[str, Any], count: int, sigmas: Any, mu: float | None) -> Array:
    """Return the family's own levels of a run, descending, without the last one, 0."""
    usual = FlowMatchEulerDiscreteScheduler(**taken(FlowMatchEulerDiscreteScheduler, family))
    usual.set_timesteps(count, sigmas=sigmas, mu=mu)
    found: Array = usual.sigmas[:-1].double().numpy()
    return found


def _last(cls: type[Any], levels: Array) -> Tensor:
    """Return the level after the last step."""
    share = _LAST_BOUNDED if cls.__name__ in _BOUNDED else 0.0
    return torch.tensor([share * levels[-1]], dtype=torch.float32)


def _set(scheduler: Any, levels: Array, moments: Array, device: Any, last: Tensor) -> None:
    """Give a scheduler the levels and time steps of a run; two looks per step are two entries."""
    repeats = torch.ones(len(levels), dtype=torch.long)
    repeats[1:] = scheduler.order
    each = torch.from_numpy(levels.astype(np.float32)).repeat_interleave(repeats)
    steps = torch.from_numpy(moments.astype(np.float32)).repeat_interleave(repeats)
    scheduler.sigmas = torch.cat([each, last])
    scheduler.timesteps = steps.to(device)


def taken(cls: type[Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return those arguments a class takes."""
    known = inspect.signature(cls.__init__).parameters
    return {key: value for key, value in wanted.items() if key in known}


def zero_snr(family: Mapping[str, Any]) -> list[float]:
    """Return the betas of a family whose last level is noise alone.

    For classes without ``rescale_betas_zero_snr``; the same numbers, with the same small rest of
    signal in the last one that keeps its level finite.

    Source: Lin et al. 2023, arXiv:2305.08891, Algorithm 1; diffusers ``rescale_zero_terminal_snr``.
    """
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    alphas = DDIMScheduler(**taken(DDIMScheduler, {**family, "rescale_betas_zero_snr": True}))
    kept = alphas.alphas_cumprod.double().clone()
    kept[-1] = 2.0**-24
    before = torch.cat([torch.ones(1, dtype=torch.float64), kept[:-1]])
    return [float(value) for value in 1 - kept / before]
