"""Guidance: the rescue of contrast, the bounds of a percentile, the interval of noise levels."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from fixtures.gaussian import FLOW, SD1, scheduler
from memcard.architectures import ARCHITECTURES
from memcard.errors import UsageError
from memcard.generation.guidance import (
    Mixture,
    combine,
    guess_of,
    guided,
    mixture,
    picture_of,
)
from memcard.generation.settings import Settings, resolve

SAID = ["epsilon", "v_prediction", "flow"]


def settings(**more: Any) -> Settings:
    return resolve(ARCHITECTURES["sd1"], {}, {"cfg": 7.0, **more})


def guesses() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    drawn = torch.randn(3, 1, 4, 16, 16, generator=torch.manual_seed(0))
    return drawn[0], drawn[1], drawn[2]


def test_plain_guidance_goes_on_along_the_line() -> None:
    without, wanted, _ = guesses()

    found = combine(without, wanted, settings())

    assert torch.equal(found, without + 7.0 * (wanted - without))


def test_rescale_gives_the_contrast_of_the_guess_with_the_prompt() -> None:
    without, wanted, _ = guesses()

    found = combine(without, wanted, settings(cfg_rescale=1.0))

    torch.testing.assert_close(found.std(), wanted.std())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("said", [{"cfg_rescale": 0.7}, {"threshold": 0.995}], ids=" ".join)
def test_half_precision_gives_the_guess_of_float32_up_to_rounding(
    said: dict[str, float], dtype: torch.dtype
) -> None:
    without, wanted, seen = guesses()
    at = Mixture(0.6, 0.8)
    want = combine(without, wanted, settings(**said), seen, at)

    halves = (value.to(dtype) for value in (without, wanted))
    found = combine(*halves, settings(**said), seen.to(dtype), at)

    assert found.dtype == dtype
    assert float((found.float() - want).abs().mean()) < (0.01 if dtype == torch.float16 else 0.05)


@pytest.mark.parametrize("said", SAID)
def test_what_a_guess_speaks_of_is_there_and_back(said: str) -> None:
    picture, noise, _ = guesses()
    at = Mixture(0.4, 0.6) if said == "flow" else Mixture(0.6, 0.8)
    seen = at.signal * picture + at.noise * noise
    kinds = {"epsilon": noise, "flow": noise - picture}
    guess = kinds.get(said, at.signal * noise - at.noise * picture)

    torch.testing.assert_close(picture_of(guess, seen, at, said), picture)
    torch.testing.assert_close(guess_of(picture, seen, at, said), guess)


@pytest.mark.parametrize("said", SAID)
def test_thresholding_keeps_the_picture_in_the_range_of_the_unguided_one(said: str) -> None:
    without, wanted, seen = guesses()
    at = Mixture(0.4, 0.6) if said == "flow" else Mixture(0.6, 0.8)
    used = replace(settings(threshold=0.9), prediction_type=said)

    found = picture_of(combine(without, wanted, used, seen, at), seen, at, said)

    wild = picture_of(combine(without, wanted, settings()), seen, at, said)
    usual = (
        picture_of(wanted, seen, at, said).abs().flatten().sort().values[int(0.9 * 1024) - 1 + 1]
    )
    assert float(found.abs().max()) == pytest.approx(float(usual), rel=1e-3)
    assert float(wild.abs().max()) > 2 * float(usual)
    # What lies within is only made smaller, all by one factor.
    inside = wild.abs() < wild.abs().flatten().kthvalue(900).values
    shares = (found / wild)[inside]
    torch.testing.assert_close(
        shares, torch.full_like(shares, float(shares.median())), atol=1e-3, rtol=1e-3
    )


def test_thresholding_leaves_a_tame_guess_alone() -> None:
    _, wanted, seen = guesses()

    found = combine(wanted, wanted, settings(threshold=1.0), seen, Mixture(0.6, 0.8))

    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_thresholding_gives_the_dtype_it_got() -> None:
    without, wanted, seen = (tensor.bfloat16() for tensor in guesses())

    found = combine(without, wanted, settings(threshold=0.99), seen, Mixture(0.6, 0.8))

    assert found.dtype == torch.bfloat16
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m", "ddim", "heun", "unipc"])
def test_the_mixture_is_the_schedulers_own(name: str) -> None:
    used = scheduler(name, "normal", "epsilon", 7, SD1)
    if name != "ddim":
        used.set_begin_index(3)
    moment = used.timesteps[3:4]

    at = mixture(used, moment[0], "epsilon")

    clean, noise = torch.ones(1, 1, 2, 2), torch.full((1, 1, 2, 2), 5.0)
    noised = used.add_noise(clean, noise, moment)
    if hasattr(used, "is_scale_input_called") or name == "heun":
        noised = used.scale_model_input(noised, moment[0])
    torch.testing.assert_close(noised, at.signal * clean + at.noise * noise, atol=2e-3, rtol=2e-3)


def test_the_mixture_of_a_flow_is_a_line() -> None:
    used = scheduler("euler", "normal", "flow", 7, FLOW)

    at = mixture(used, 250.0, "flow")

    assert (at.signal, at.noise) == (0.75, 0.25)
    assert at.level == pytest.approx(1 / 3)
    assert mixture(used, 1000.0, "flow").level == float("inf")


@pytest.mark.parametrize(
    ("level", "inside"), [(0.2, False), (0.28, False), (0.3, True), (5.4, True), (6.0, False)]
)
def test_guidance_stays_in_its_interval(level: float, inside: bool) -> None:
    assert guided(settings(cfg_low=0.28, cfg_high=5.42), level) is inside


def test_guidance_has_no_interval_unless_asked() -> None:
    assert guided(settings(), 0.001)
    assert guided(settings(), float("inf"))
    assert not guided(settings(cfg=1.0), 1.0)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"threshold": 1.5}, "threshold 1.5 is not in 0..1"),
        ({"cfg_low": -1.0}, "cfg_low -1 is not a noise level"),
        ({"cfg_high": float("inf")}, "cfg_high inf is not a noise level"),
        ({"cfg_low": 5.0, "cfg_high": 2.0}, "no noise level would be guided"),
        ({"cfg_low": float("nan")}, "is not a noise level"),
        ({"sampler": "lcm", "steps": 60}, "at most 50 steps"),
        ({"sampler": "plms", "schedule": "karras"}, "PLMS has no schedule 'karras'"),
    ],
)
def test_what_cannot_be_is_refused(said: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        settings(**said)


def test_automatic_is_what_a1111_means_by_it() -> None:
    assert settings(sampler="DPM++ 2M", schedule="Automatic").schedule == "karras"
    assert settings(sampler="DPM++ 2M SDE", schedule="automatic").schedule == "exponential"
    assert settings(sampler="Euler a", schedule="SGM Uniform").schedule == "trailing"
