"""Samplers, one file each, found by any of their names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Any, Final

from memcard.core.registry import Registry
from memcard.errors import NotFoundError
from memcard.generation.sampler import SCHEDULES, Sampler
from memcard.generation.schedule import names_of, plain

__all__ = ["SAMPLERS", "find", "named", "of_config"]

SAMPLERS: Registry[Sampler] = Registry("memcard.generation.samplers")

# Known elsewhere, not here: what comes closest. None of diffusers' schedulers samples as these do.
_ELSEWHERE: Final[Mapping[str, str]] = {
    "dpm fast": "dpmpp_2s",
    "dpm adaptive": "dpmpp_2s",
    "restart": "heun",
    "heunpp2": "heun",
    "ipndm": "plms",
    "ipndm v": "plms",
    "ipndmscheduler": "plms",
    "er sde": "dpmpp_3m_sde",
    "res multistep": "dpmpp_2m",
    "res multistep ancestral": "dpmpp_2m_sde",
    "gradient estimation": "euler",
    "seeds 2": "dpmpp_sde",
    "seeds 3": "dpmpp_sde",
    "exp heun 2 x0": "heun",
}


def find(name: str) -> tuple[str, str | None]:
    """Return our name of a sampler and, if ``name`` says one, the schedule.

    Knows ``dpmpp_2m``, ``DPM++ 2M``, ``DPM++ 2M Karras``, ``dpmpp_2m_karras``, ``dpmpp_2m_sde_gpu``,
    ``k_euler_a`` and ``DPMSolverMultistepScheduler`` (which of several samplers of one class: the one
    without options); upper and lower case are the same.

    Raises:
        NotFoundError: no sampler has this name; says the nearest.
    """
    known = _names()
    for wanted, schedule in _readings(plain(name)):
        if wanted in known:
            return known[wanted], schedule
    wanted = plain(name)
    for spelled, schedule in _readings(wanted):
        if near := _ELSEWHERE.get(spelled):
            also = f" {schedule}" if schedule else ""
            raise NotFoundError(
                f"no sampler {name!r} here: nothing in diffusers samples as it does. "
                f"{SAMPLERS[near].a1111}{also} comes closest: use {near!r}."
            )
    near_names = dict.fromkeys(known[n] for n in get_close_matches(wanted, known, n=5, cutoff=0.5))
    hint = f" Did you mean {' or '.join(map(repr, list(near_names)[:2]))}?" if near_names else ""
    raise NotFoundError(f"no sampler {name!r}.{hint} There are: {', '.join(SAMPLERS)}.")


def named(sampler: str) -> tuple[str, ...]:
    """Return everything one of ``SAMPLERS`` is called, as it is compared."""
    found = SAMPLERS[sampler]
    spelled = [sampler, found.a1111, found.comfyui, *found.aliases]
    if not found.options:
        spelled.append(found.diffusers.rpartition(".")[2])
    return tuple(dict.fromkeys(plain(name) for name in spelled if name))


@cache
def _names() -> Mapping[str, str]:
    return {spelled: own for own in SAMPLERS for spelled in named(own)}


def _readings(wanted: str) -> Iterator[tuple[str, str | None]]:
    """Return how a name may be read: as it is, without what tools put around it, with a schedule."""
    bare = wanted.removesuffix(" gpu").removeprefix("k ").removeprefix("sample ")
    for start in dict.fromkeys((wanted, bare)):
        yield start, None
        for schedule in SCHEDULES:
            for end in names_of(schedule):
                if start.endswith(f" {end}"):
                    yield start.removesuffix(f" {end}").removesuffix(" gpu"), schedule


def of_config(config: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the sampler and schedule of a diffusers ``scheduler_config.json``; None if it has none here."""
    name = str(config.get("_class_name", ""))
    fits = [
        (len(sampler.options), own)
        for own, sampler in SAMPLERS.items()
        if name
        in (
            *(path.rpartition(".")[2] for path in (sampler.diffusers, sampler.flow)),
            *sampler.aliases,
        )
        and all(config.get(key) == value for key, value in sampler.options.items())
    ]
    if not fits:
        return None
    own = max(fits, key=lambda fit: fit[0])[1]
    for schedule, found in SCHEDULES.items():
        asked = found.options and all(config.get(key) == v for key, v in found.options.items())
        if asked and schedule in SAMPLERS[own].schedules:
            return own, schedule
    return own, "normal"
