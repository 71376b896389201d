"""The model as its own judge, on the starter: pictures of which the right answer is known."""

from dataclasses import replace

import pytest
import torch

from memcard.architectures import ARCHITECTURES
from memcard.errors import UsageError
from memcard.generation.denoise import conditions, decode, denoise
from memcard.generation.engine import Pipeline
from memcard.generation.scorer import Bench, Shot
from memcard.generation.scorers import SCORERS
from memcard.generation.scorers._likelihood import LOOKS, log_errors
from memcard.generation.scorers.adherence import margin
from memcard.generation.settings import Settings, resolve

APPLE, ROCKET = "cartoon of a red apple", "cartoon of a rocket"


@pytest.fixture(scope="module")
def settings() -> Settings:
    return resolve(ARCHITECTURES["starter"], {}, {"steps": 6, "cfg": 2.0})


@pytest.fixture(scope="module")
def apple(starter_pipeline: Pipeline, settings: Settings) -> Shot:
    return painted(starter_pipeline, settings)


@pytest.fixture
def bench(starter_pipeline: Pipeline, settings: Settings) -> Bench:
    return Bench(starter_pipeline, settings, rivals=(APPLE, ROCKET, ""))


def painted(pipeline: Pipeline, settings: Settings) -> Shot:
    told = conditions(pipeline, APPLE, "", settings)
    with pipeline.running():
        latents = denoise(pipeline, told, settings, 3)
        return Shot(APPLE, 3, latents, decode(pipeline, latents, settings))


def test_a_picture_adheres_to_its_own_prompt_and_not_to_another(apple: Shot, bench: Bench) -> None:
    claimed = replace(apple, prompt=ROCKET)

    right, wrong = SCORERS["adherence"].score([apple, claimed], bench)

    assert right > 0.3
    assert wrong < -0.3
    assert SCORERS["recognition"].score([apple, claimed], bench) == (1.0, 0.0)


def test_a_burnt_picture_adheres_less_and_is_less_likely(apple: Shot, bench: Bench) -> None:
    burnt = replace(apple, latents=apple.latents * 1.6)

    fine, worse = SCORERS["adherence"].score([apple, burnt], bench)
    likely, unlikely = SCORERS["likelihood"].score([apple, burnt], bench)

    assert fine > worse
    assert likely > unlikely


def test_noise_is_recognised_as_nothing(apple: Shot, bench: Bench) -> None:
    noise = torch.randn(apple.latents.shape, generator=torch.Generator().manual_seed(0))

    found = SCORERS["adherence"].score([replace(apple, latents=noise)], bench)[0]

    assert found < 0.2


def test_errors_are_one_a_look_and_the_own_prompt_is_no_rival(apple: Shot, bench: Bench) -> None:
    own, rivals = log_errors(apple, bench)

    assert own.shape == (len(LOOKS),)
    assert rivals.shape == (len(LOOKS), 2)


def test_the_same_picture_scores_the_same_whatever_is_judged_with_it(
    apple: Shot, bench: Bench
) -> None:
    other = replace(apple, latents=apple.latents * 0.5)

    first = SCORERS["adherence"].score([apple], replace(bench, kept={}))[0]

    assert SCORERS["adherence"].score([other, apple, other], bench)[1] == first


def test_margin_is_to_the_nearest_rival_of_all_looks_together() -> None:
    own = torch.tensor([0.0, 1.0])
    rivals = torch.tensor([[0.5, 9.0], [1.5, -8.0]])

    assert margin(own, rivals) == pytest.approx(0.0)
    assert margin(own, rivals[:, :1]) == pytest.approx(0.5)


def test_prompts_are_judged_alike_together_and_alone(
    starter_pipeline: Pipeline, apple: Shot, settings: Settings
) -> None:
    bench = Bench(starter_pipeline, settings, rivals=("", ROCKET, "a crown"))
    alone = [
        log_errors(apple, Bench(starter_pipeline, settings, rivals=(text,)))[1]
        for text in bench.rivals
    ]

    together = log_errors(apple, bench)[1]

    torch.testing.assert_close(together, torch.cat(alone, dim=1), atol=1e-4, rtol=0)


def test_without_a_model_or_a_rival_it_says_what_is_missing(apple: Shot, bench: Bench) -> None:
    with pytest.raises(UsageError, match="no model on the bench"):
        SCORERS["adherence"].score([apple], Bench())
    with pytest.raises(UsageError, match="no other prompt to be told from"):
        SCORERS["adherence"].score([apple], replace(bench, rivals=(APPLE,)))
