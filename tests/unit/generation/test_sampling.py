"""Every sampler with every schedule, on a model whose answer is known: it arrives, and how fast."""

from typing import Any

import pytest
import torch

from fixtures.gaussian import MEAN, SD1, WIDTH, consistent, error, sample, scheduler
from memcard.errors import UsageError
from memcard.generation._engine import quiet
from memcard.generation.sampler import Sampler
from memcard.generation.samplers import SAMPLERS

ZERO_SNR = {**SD1, "rescale_betas_zero_snr": True}
QUICK = ("normal", "karras", "beta")
DISTILLED = ("lcm",)  # asks a distilled model, not one that says the mean


def pairs(said: str, *, random: bool) -> list[Any]:
    """Return samplers with schedules; those of diffusers and one of ours by default, all if slow."""
    return [
        pytest.param(name, schedule, said, marks=[] if schedule in QUICK else pytest.mark.slow)
        for name, sampler in SAMPLERS.items()
        for schedule in sampler.known(said)
        if sampler.random == random and name not in DISTILLED
    ]


def steps_of(name: str, steps: int) -> int:
    return min(steps, SAMPLERS[name].most_steps or steps)


def usual(sampler: Sampler, said: str) -> str:
    return "beta" if "beta" in sampler.known(said) else "normal"


@pytest.mark.parametrize(
    ("name", "schedule", "said"),
    [pair for said in ("epsilon", "flow") for pair in pairs(said, random=False)],
)
def test_without_noise_it_ends_where_the_flow_does(name: str, schedule: str, said: str) -> None:
    coarse, fine = (error(name, schedule, said, steps) for steps in (8, 32))

    assert fine < 0.35
    assert fine < coarse * 0.75 or fine < 0.035


@pytest.mark.parametrize(
    ("name", "schedule", "said"),
    [pair for said in ("epsilon", "flow") for pair in pairs(said, random=True)],
)
def test_with_noise_the_pictures_have_the_right_mean_and_width(
    name: str, schedule: str, said: str
) -> None:
    found = sample(name, schedule, said, steps_of(name, 60))[0]

    assert float(found.mean()) == pytest.approx(MEAN, abs=0.04)  # 4,096 values: 0.013 by chance
    assert float(found.std()) == pytest.approx(WIDTH, abs=0.13)  # of first order in some


@pytest.mark.parametrize(
    "name", [n for n, s in SAMPLERS.items() if s.random and n not in DISTILLED]
)
def test_with_noise_more_steps_come_nearer(name: str) -> None:
    schedule = usual(SAMPLERS[name], "epsilon")
    coarse, fine = (
        abs(float(sample(name, schedule, "epsilon", steps_of(name, steps))[0].std()) - WIDTH)
        for steps in (8, 120)
    )

    assert fine < max(coarse / 2, 0.02)


@pytest.mark.parametrize("said", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [1, 4])
def test_a_distilled_model_samples_in_few_steps(steps: int, said: str) -> None:
    found = sample("lcm", "normal", said, steps, model=consistent)[0]

    assert float(found.mean()) == pytest.approx(MEAN, abs=0.05)
    assert float(found.std()) == pytest.approx(WIDTH, abs=0.05)


def test_a_distilled_flow_samples_in_few_steps() -> None:
    found = sample("lcm", "normal", "flow", 4, model=consistent)[0]

    assert float(found.mean()) == pytest.approx(MEAN, abs=0.05)
    assert float(found.std()) == pytest.approx(WIDTH, abs=0.05)


ORDERS = {
    "euler": (1.8, 2.3),
    "ddim": (1.8, 2.3),
    "heun": (3.5, 8),
    "dpm2": (3.5, 9),
    "dpmpp_2m": (3.2, 9),
    "dpmpp_2s": (3.0, 9),
    "lms": (3.5, 16),
    "dpmpp_3m": (3.0, 40),
    "unipc": (4, 40),
}


@pytest.mark.parametrize("name", ORDERS)
def test_half_the_step_shrinks_the_error_by_the_order(name: str) -> None:
    schedule = "kl_optimal" if "kl_optimal" in SAMPLERS[name].schedules else "normal"
    least, most = ORDERS[name]

    coarse, fine = (error(name, schedule, "epsilon", steps) for steps in (10, 20))

    assert least < coarse / fine < most


def test_dpmpp_3m_sde_has_the_sign_diffusers_lacks() -> None:
    """With diffusers' own third-order step the width is 0.95 after 80 even steps, and 2.6 with others."""
    theirs = {**SAMPLERS["dpmpp_3m_sde"].options}
    module = SAMPLERS["dpmpp_2m_sde"].diffusers

    found = sample("dpmpp_3m_sde", "trailing", "epsilon", 80)[0]
    wrong = Sampler("", "", module, "", options=theirs, random=True)

    assert float(found.std()) == pytest.approx(WIDTH, abs=0.02)
    assert abs(_width(wrong, 80) - WIDTH) > 0.1, "diffusers is mended: ours is not needed any more"


def _width(sampler: Sampler, steps: int) -> float:
    from fixtures.gaussian import posterior, said_about
    from memcard.generation.guidance import mixture
    from memcard.generation.latents import generator

    with quiet():
        used = sampler.scheduler(SD1, schedule="trailing", prediction_type="epsilon")
        used.set_timesteps(steps)
    source = generator(0)
    latents = torch.randn(1, 1, 100, 100, generator=source, dtype=torch.float64)
    for moment in used.timesteps:
        at = mixture(used, moment, "epsilon")
        guess = said_about(posterior(latents, at), latents, at, "epsilon")
        latents = used.step(guess, moment, latents, return_dict=False, generator=source)[0]
    return float(latents.std())


@pytest.mark.parametrize("said", ["epsilon", "flow"])
@pytest.mark.parametrize("name", [n for n, s in SAMPLERS.items() if s.random])
def test_noise_comes_from_the_given_source_alone(name: str, said: str) -> None:
    if said == "flow" and not SAMPLERS[name].flow:
        pytest.skip("no flow")
    torch.manual_seed(1)
    first = sample(name, "normal", said, 4, seed=7)[0]
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    second = sample(name, "normal", said, 4, seed=7)[0]

    assert torch.equal(first, second)
    assert torch.equal(state, torch.random.get_rng_state())
    assert not torch.equal(first, sample(name, "normal", said, 4, seed=8)[0])


ABLE = [name for name, sampler in SAMPLERS.items() if sampler.zero_snr and name not in DISTILLED]


@pytest.mark.parametrize("name", ABLE)
@pytest.mark.parametrize("schedule", ["normal", "karras"])
def test_zero_terminal_snr_begins_at_noise_alone(name: str, schedule: str) -> None:
    if schedule not in SAMPLERS[name].schedules:
        pytest.skip("no such schedule")

    used = scheduler(name, schedule, "v_prediction", 40, ZERO_SNR)

    assert float(used.timesteps[0]) == 999
    if SAMPLERS[name].random:
        found = sample(name, schedule, "v_prediction", 40, family=ZERO_SNR)[0]
        assert float(found.std()) == pytest.approx(WIDTH, abs=0.2)
    else:
        assert error(name, schedule, "v_prediction", 40, family=ZERO_SNR) < 0.25


@pytest.mark.parametrize("name", [n for n, s in SAMPLERS.items() if not s.zero_snr])
def test_what_cannot_begin_at_noise_alone_says_who_can(name: str) -> None:
    with pytest.raises(UsageError, match=r"zero terminal SNR.*These can: .*euler"):
        scheduler(name, "normal", "v_prediction", 4, ZERO_SNR)


def test_noise_alone_cannot_be_asked_for_the_noise() -> None:
    with pytest.raises(UsageError, match="Set prediction_type to v_prediction"):
        scheduler("euler", "normal", "epsilon", 4, ZERO_SNR)


def test_betas_for_classes_without_the_option_are_the_same_as_with_it() -> None:
    ours = scheduler("deis", "normal", "v_prediction", 4, ZERO_SNR).alphas_cumprod
    theirs = scheduler("euler", "normal", "v_prediction", 4, ZERO_SNR).alphas_cumprod

    torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=1e-7)
    assert float(ours[-1]) == pytest.approx(2.0**-24, rel=0.1)


@pytest.mark.parametrize("name", [n for n, s in SAMPLERS.items() if not s.flow])
def test_what_cannot_flow_says_who_can(name: str) -> None:
    with pytest.raises(UsageError, match=r"flow matching. These can: .*dpmpp_2m, .*euler"):
        scheduler(name, "normal", "flow", 4, {})


def test_few_steps_are_all_a_distilled_sampler_has() -> None:
    with pytest.raises(UsageError, match="at most 50 steps"):
        SAMPLERS["lcm"].check("normal", "epsilon", steps=51)

    SAMPLERS["lcm"].check("normal", "flow", steps=51)
    SAMPLERS["euler"].check("normal", "epsilon", steps=999)


@pytest.mark.parametrize("name", [n for n, s in SAMPLERS.items() if s.flow])
def test_every_flow_walks_the_same_levels(name: str) -> None:
    """Whatever the solver: the family's shift, by the size of the picture."""
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
        FlowMatchEulerDiscreteScheduler,
    )

    family = {"shift": 3.0, "use_dynamic_shifting": True, "shift_terminal": 0.1}
    with quiet():
        usual = FlowMatchEulerDiscreteScheduler(**family)
        usual.set_timesteps(6, mu=0.9)
        used = SAMPLERS[name].scheduler(family, prediction_type="flow")
        used.set_timesteps(6, mu=0.9)

    torch.testing.assert_close(
        used.sigmas[:-1].unique(), usual.sigmas[:-1].unique(), atol=2e-4, rtol=0
    )
    assert torch.equal(used.timesteps.unique(), usual.timesteps.unique())
    assert len(used.timesteps) == (11 if SAMPLERS[name].evaluations == 2 else 6)


def test_euler_for_flows_is_diffusers_own() -> None:
    used = scheduler("euler", "karras", "flow", 4, {"shift": 3.0})

    assert type(used).__module__.startswith("diffusers.")
    assert used.config.use_karras_sigmas


@pytest.mark.parametrize("name", [n for n, s in SAMPLERS.items() if s.flow])
def test_a_picture_can_be_noised_for_every_flow(name: str) -> None:
    from memcard.generation.denoise import noised

    used = scheduler(name, "normal", "flow", 4, {"shift": 1.0})
    used.set_begin_index(2)
    moment = used.timesteps[2:3]
    share = float(moment) / 1000

    found = noised(used, torch.ones(1, 4, 2, 2), torch.full((1, 4, 2, 2), 3.0), moment)

    torch.testing.assert_close(found, torch.full((1, 4, 2, 2), 1 - share + 3 * share))


def test_linear_multistep_needs_no_scipy_and_agrees_with_a_polynomial() -> None:
    used = scheduler("lms", "karras", "epsilon", 12, SD1)
    sigmas = used.sigmas.double()

    coefficients = [used.get_lms_coefficient(4, 7, k) for k in range(4)]

    # The integral of a cubic over a step, from its values at the last four levels.
    values = sum(c * float(sigmas[7 - k]) ** 3 for k, c in enumerate(coefficients))
    assert values == pytest.approx(float(sigmas[8] ** 4 - sigmas[7] ** 4) / 4, rel=1e-6)
    assert sum(coefficients) == pytest.approx(float(sigmas[8] - sigmas[7]), rel=1e-6)
