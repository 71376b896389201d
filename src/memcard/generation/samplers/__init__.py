"""Samplers, one file each, found by any of their names."""

from __future__ import annotations

from memcard.core.registry import Registry
from memcard.errors import NotFoundError
from memcard.generation.sampler import SCHEDULES, Sampler

__all__ = ["SAMPLERS", "find"]

SAMPLERS: Registry[Sampler] = Registry("memcard.generation.samplers")


def _plain(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").split())


def find(name: str) -> tuple[str, str | None]:
    """Return our name of a sampler and, if ``name`` says one, the schedule.

    Knows ``dpmpp_2m``, ``DPM++ 2M``, ``DPM++ 2M Karras``, ``dpmpp_2m_karras`` and
    ``DPMSolverMultistepScheduler`` (which of two samplers of one class: the one without options).

    Raises:
        NotFoundError: no sampler has this name.
    """
    wanted = _plain(name)
    for own, sampler in SAMPLERS.items():
        names = {_plain(n) for n in (own, sampler.a1111, sampler.comfyui)}
        if not sampler.options:
            names.add(_plain(sampler.diffusers.rpartition(".")[2]))
        if wanted in names:
            return own, None
        for schedule in SCHEDULES:
            if wanted.removesuffix(f" {schedule}") in names:
                return own, schedule
    SAMPLERS[name]  # raises, with the nearest name
    raise NotFoundError(f"no {name!r} in samplers.")
