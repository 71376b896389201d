"""Samplers: found by every name, equal to diffusers' schedulers built by hand, all able to paint."""

import warnings
from typing import Any

import pytest
import torch

from memcard.core.checkpoint import Checkpoint
from memcard.generation.denoise import denoise, encode
from memcard.generation.pipeline import Pipeline
from memcard.generation.sampler import SCHEDULES, Sampler
from memcard.generation.samplers import SAMPLERS, find
from memcard.generation.settings import resolve as choose

ALL = [(name, schedule) for name, sampler in SAMPLERS.items() for schedule in sampler.schedules]


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_is_found_by_each_of_its_names(name: str) -> None:
    sampler = SAMPLERS[name]

    assert isinstance(sampler, Sampler)
    assert {find(n) for n in (name, sampler.a1111, sampler.comfyui, name.upper())} == {(name, None)}
    assert {find(f"{sampler.a1111} {schedule.title()}") for schedule in SCHEDULES} == {
        (name, schedule) for schedule in SCHEDULES
    }
    assert sampler.source


def test_the_name_in_diffusers_is_known_too() -> None:
    assert find("EulerDiscreteScheduler") == ("euler", None)
    assert find("DPMSolverMultistepScheduler") == ("dpmpp_2m", None)


@pytest.mark.parametrize(("name", "schedule"), ALL)
def test_every_sampler_paints_with_every_schedule(
    name: str, schedule: str, starter: Checkpoint, starter_pipeline: Pipeline
) -> None:
    said = {"sampler": name, "schedule": schedule, "steps": 4}
    used = choose(starter_pipeline.family, starter.metadata, said)
    counted: list[tuple[int, int]] = []

    with starter_pipeline.running():
        states = encode(starter_pipeline, "a red apple", "")
        found = [
            denoise(starter_pipeline, states, used, 1, lambda *at: counted.append(at))
            for _ in range(2)
        ]

    assert torch.isfinite(found[0]).all()
    assert torch.equal(*found)
    assert 0.2 < float(found[0].std()) < 5
    assert counted[-1][0] == counted[-1][1] >= 4 * SAMPLERS[name].evaluations - 1


def test_noise_differs_between_samplers_that_draw_it_by_seed(
    starter: Checkpoint, starter_pipeline: Pipeline
) -> None:
    used = choose(starter_pipeline.family, starter.metadata, {"sampler": "euler_a", "steps": 2})
    states = encode(starter_pipeline, "a red apple", "")

    with starter_pipeline.running():
        one, two = (denoise(starter_pipeline, states, used, seed) for seed in (1, 2))

    assert not torch.equal(one, two)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("schedule", ["normal", "karras"])
def test_euler_is_diffusers_euler(
    schedule: str, prediction: str, starter_pipeline: Pipeline
) -> None:
    from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler

    family: dict[str, Any] = starter_pipeline.family.defaults.extra["scheduler"]
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
