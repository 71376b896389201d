"""What a prompt asks for, over the steps of a real run of the twin."""

from typing import Any

import pytest
import torch
from torch import Tensor

from memcard.architectures import ARCHITECTURES
from memcard.generation.denoise import conditions, denoise
from memcard.generation.engine import Pipeline
from memcard.generation.settings import Settings
from memcard.generation.settings import resolve as choose


@pytest.fixture(scope="module")
def settings() -> Settings:
    said: dict[str, Any] = {"width": 64, "height": 64, "steps": 4, "sampler": "euler", "cfg": 5.0}
    return choose(ARCHITECTURES["sd1"], {}, said)


def steps_of(pipeline: Pipeline, prompt: str, negative: str, settings: Settings) -> list[Tensor]:
    found: list[Tensor] = []
    with pipeline.running():
        told = conditions(pipeline, prompt, negative, settings)
        denoise(pipeline, told, settings, 3, lambda done, total, now: found.append(now.clone()))
    return found


def alike(one: list[Tensor], other: list[Tensor]) -> list[bool]:
    return [torch.equal(a, b) for a, b in zip(one, other, strict=True)]


def test_a_change_leaves_the_steps_before_it_alone(
    twin_pipeline: Pipeline, settings: Settings
) -> None:
    cat = steps_of(twin_pipeline, "a cat", "blurry", settings)

    changed = steps_of(twin_pipeline, "a [cat:dog:0.5]", "blurry", settings)
    unwanted = steps_of(twin_pipeline, "a cat", "[blurry:red:3]", settings)

    assert alike(cat, changed) == [True, True, False, False]
    assert alike(cat, unwanted) == [True, True, True, False]


def test_turns_are_taken_step_by_step(twin_pipeline: Pipeline, settings: Settings) -> None:
    told = conditions(twin_pipeline, "[cat|dog]", "", settings)
    cat, dog = (
        conditions(twin_pipeline, text, "", settings).at(0)[0]["states"] for text in ("cat", "dog")
    )

    states = [told.at(step)[0]["states"] for step in range(4)]

    assert alike(states, [cat, dog, cat, dog]) == [True] * 4


def test_tags_and_marks_leave_no_trace(twin_pipeline: Pipeline, settings: Settings) -> None:
    marked = steps_of(twin_pipeline, "a cat<lora:x:0.8>(, big:1)", "", settings)

    assert alike(marked, steps_of(twin_pipeline, "a cat, big", "", settings)) == [True] * 4


def test_a_long_prompt_is_read_to_its_end(twin_pipeline: Pipeline, settings: Settings) -> None:
    long = "cat " * 80

    told, unwanted = conditions(twin_pipeline, f"{long} apple", "blurry", settings).at(0)

    assert told["states"].shape[1] == 154
    assert unwanted is not None
    assert unwanted["states"].shape[1] == 77  # each is read as long as it is
    apple = steps_of(twin_pipeline, f"{long} apple", "blurry", settings)
    assert alike(apple, steps_of(twin_pipeline, f"{long} tree", "blurry", settings)) == [False] * 4
    assert all(torch.isfinite(latents).all() for latents in apple)
