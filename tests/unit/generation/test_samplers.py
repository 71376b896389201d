"""Samplers: found by every name, equal to diffusers' schedulers built by hand, all able to paint."""

import warnings
from typing import Any

import pytest
import torch

from memcard.architectures import ARCHITECTURES
from memcard.core.checkpoint import Checkpoint
from memcard.errors import NotFoundError
from memcard.generation.denoise import conditions, denoise
from memcard.generation.engine import Pipeline
from memcard.generation.sampler import Sampler
from memcard.generation.samplers import SAMPLERS, find, of_config
from memcard.generation.settings import Settings
from memcard.generation.settings import resolve as choose

STARTER = ARCHITECTURES["starter"]
ALL = [
    pytest.param(name, schedule, marks=[] if schedule == "normal" else pytest.mark.slow)
    for name, sampler in SAMPLERS.items()
    for schedule in sampler.schedules
]


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_is_found_by_each_of_its_names(name: str) -> None:
    sampler = SAMPLERS[name]
    names = [name, sampler.a1111, sampler.comfyui or name, name.upper(), *sampler.aliases]

    assert isinstance(sampler, Sampler)
    assert {find(n) for n in names} == {(name, None)}
    assert {find(f"{n} Karras") for n in names} == {(name, "karras")}
    assert sampler.source


@pytest.mark.parametrize(
    ("said", "own"),
    [
        ("EulerDiscreteScheduler", ("euler", None)),
        ("DPMSolverMultistepScheduler", ("dpmpp_2m", None)),
        ("DPM++ 2M Karras", ("dpmpp_2m", "karras")),
        ("dpmpp_2m_sde_gpu", ("dpmpp_2m_sde", None)),
        ("DPM++ 2M SDE Heun Exponential", ("dpmpp_2m_sde_heun", "exponential")),
        ("dpmpp_3m_sde_gpu_karras", ("dpmpp_3m_sde", "karras")),
        ("k_euler_ancestral", ("euler_a", None)),
        ("k_dpm_2_a", ("dpm2_a", None)),
        ("euler_k", ("euler", "karras")),
        ("euler sgm uniform", ("euler", "trailing")),
        ("Euler SGMUniform", ("euler", "trailing")),
        ("uni_pc", ("unipc_bh1", None)),
        ("DPM++ SDE Karras", ("dpmpp_sde", "karras")),
        ("DPM++ 2S a Karras", ("dpmpp_2s_a", "karras")),
        ("dpmpp_2m_simple", ("dpmpp_2m", "simple")),
    ],
)
def test_names_of_other_tools_are_known(said: str, own: tuple[str, str | None]) -> None:
    assert find(said) == own


def test_no_name_means_two_samplers() -> None:
    from memcard.generation.samplers import named

    names = [spelled for own in SAMPLERS for spelled in named(own)]

    assert sorted(names) == sorted(set(names))


def test_a_sampler_nobody_has_here_gets_the_closest() -> None:
    with pytest.raises(NotFoundError, match=r"no sampler 'DPM adaptive' here.*use 'dpmpp_2s'"):
        find("DPM adaptive")


def test_a_misspelt_sampler_gets_the_nearest() -> None:
    with pytest.raises(NotFoundError, match=r"Did you mean .*'dpmpp_2m'"):
        find("DPM++ 2N")


@pytest.mark.parametrize(
    ("config", "own"),
    [
        ({"_class_name": "EulerDiscreteScheduler"}, ("euler", "normal")),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": True},
            ("dpmpp_2m", "karras"),
        ),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"},
            ("dpmpp_2m_sde", "normal"),
        ),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, ("euler", "normal")),
        ({"_class_name": "DPMSolverSDEScheduler"}, ("dpmpp_sde", "normal")),
        ({"_class_name": "IPNDMScheduler"}, None),
    ],
)
def test_a_scheduler_config_is_a_sampler(config: dict[str, Any], own: object) -> None:
    assert of_config(config) == own


def paint(pipeline: Pipeline, used: Settings, seed: int) -> tuple[torch.Tensor, list[int]]:
    counted: list[int] = []
    with pipeline.running():
        told = conditions(pipeline, "a red apple", "", used)
        found = denoise(pipeline, told, used, seed, lambda *at: counted.append(at[0]))
    return found, counted


@pytest.mark.parametrize(("name", "schedule"), ALL)
def test_every_sampler_paints_with_every_schedule(
    name: str, schedule: str, starter: Checkpoint, starter_pipeline: Pipeline
) -> None:
    steps = 8  # with four, solvers of higher order overshoot on levels that end steeply
    said = {"sampler": name, "schedule": schedule, "steps": steps, "width": 32, "height": 32}
    used = choose(STARTER, starter.metadata, said)

    found, counted = paint(starter_pipeline, used, 1)

    assert torch.isfinite(found).all()
    assert torch.equal(found, paint(starter_pipeline, used, 1)[0])
    assert 0.2 < float(found.std()) < 5
    assert counted[-1] == len(counted) >= steps * SAMPLERS[name].evaluations - 1


def test_noise_differs_between_samplers_that_draw_it_by_seed(
    starter: Checkpoint, starter_pipeline: Pipeline
) -> None:
    used = choose(STARTER, starter.metadata, {"sampler": "euler_a", "steps": 2})

    one, two = (paint(starter_pipeline, used, seed)[0] for seed in (1, 2))

    assert not torch.equal(one, two)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("schedule", ["normal", "karras"])
def test_euler_is_diffusers_euler(schedule: str, prediction: str) -> None:
    from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler

    family: dict[str, Any] = STARTER.defaults.extra["scheduler"]
    sample, guess = torch.randn(2, 1, 4, 8, 8, generator=torch.manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mine = SAMPLERS["euler"].scheduler(family, schedule=schedule, prediction_type=prediction)
        theirs = EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            prediction_type=prediction,
            timestep_spacing="trailing",
            steps_offset=1,
            use_karras_sigmas=schedule == "karras",
        )
        mine.set_timesteps(5)
        theirs.set_timesteps(5)

    assert torch.equal(mine.sigmas, theirs.sigmas)
    for moment in theirs.timesteps:
        scaled = mine.scale_model_input(sample, moment)
        assert torch.equal(scaled, theirs.scale_model_input(sample, moment))
        stepped = mine.step(guess, moment, sample).prev_sample
        sample = theirs.step(guess, moment, sample).prev_sample
        assert torch.equal(stepped, sample)
