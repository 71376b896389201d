"""Schedules: the published formulas, the same levels for every sampler, all their names."""

import math

import numpy as np
import pytest
import torch

from fixtures.gaussian import FLOW, SD1, scheduler
from memcard.errors import NotFoundError
from memcard.generation import schedule as formulas
from memcard.generation.sampler import SCHEDULES
from memcard.generation.samplers import SAMPLERS
from memcard.generation.schedule import beta_quantile, find, moments_of

BETAS = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
ALPHAS = np.cumprod(1 - BETAS)
TABLE = ((1 - ALPHAS) / ALPHAS) ** 0.5
LOW, HIGH = float(TABLE[0]), float(TABLE[-1])


def test_karras_has_even_seventh_roots() -> None:
    found = formulas.karras(TABLE, 9) ** (1 / 7)

    assert np.ptp(np.diff(found)) < 1e-12
    assert (found[0] ** 7, found[-1] ** 7) == pytest.approx((HIGH, LOW))


def test_exponential_has_even_logarithms() -> None:
    assert np.ptp(np.diff(np.log(formulas.exponential(TABLE, 9)))) < 1e-12


def test_kl_optimal_has_even_angles() -> None:
    found = formulas.kl_optimal(TABLE, 5)

    assert found[2] == pytest.approx(math.tan((math.atan(HIGH) + math.atan(LOW)) / 2))
    assert formulas.kl_optimal(TABLE, 1) == pytest.approx([HIGH])


@pytest.mark.parametrize(
    ("name", "moments"),
    [
        ("normal", [999, 749.25, 499.5, 249.75, 0]),
        ("trailing", [999, 799, 599, 399, 199]),
        ("simple", [999, 799, 599, 399, 199]),
        ("ddim_uniform", [801, 601, 401, 201, 1]),
    ],
)
def test_even_steps_are_where_they_are_published(name: str, moments: list[float]) -> None:
    found = getattr(formulas, name)(TABLE, 5)

    assert moments_of(TABLE, found) == pytest.approx(moments, abs=1e-9)


def test_beta_quantiles_invert_the_integral_of_the_density() -> None:
    shares = np.array([0.0, 0.03, 0.3, 0.5, 0.8, 0.99, 1.0])
    angle = np.linspace(0, math.pi / 2, 2_000_001)  # t = sin^2, where the density is bounded
    density = (np.sin(angle) * np.cos(angle)) ** 0.2
    total = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])

    found = beta_quantile(shares)

    assert np.interp(found, np.sin(angle) ** 2, total / total[-1]) == pytest.approx(
        shares, abs=1e-6
    )


def test_beta_steps_are_whole_while_they_differ() -> None:
    few = moments_of(TABLE, formulas.beta(TABLE, 20))
    many = moments_of(TABLE, formulas.beta(TABLE, 400))

    assert few == pytest.approx(np.rint(few), abs=1e-9)
    assert few[0] == pytest.approx(999)
    assert len(set(many.tolist())) == 400


def test_linear_quadratic_ends_its_straight_half_at_the_threshold() -> None:
    flow = np.linspace(0.001, 1, 1000)
    fallen = 1 - formulas.linear_quadratic(flow, 40)

    assert fallen[:21] == pytest.approx(0.025 * np.arange(21) / 20)
    assert np.ptp(np.diff(fallen[20:], 2)) < 1e-12  # a parabola
    assert fallen[-1] < 1
    assert 2 * fallen[-1] - fallen[-2] + np.diff(fallen[-3:], 2)[0] == pytest.approx(1)
    assert formulas.linear_quadratic(flow, 1) == pytest.approx([1])


def test_align_your_steps_is_the_published_table() -> None:
    assert formulas.align_your_steps(TABLE, 11)[1:-1] == pytest.approx(
        [6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152]
    )
    assert formulas.align_your_steps_xl(TABLE, 11)[5] == pytest.approx(0.862)


@pytest.mark.parametrize("name", [name for name, found in SCHEDULES.items() if found.levels])
@pytest.mark.parametrize("steps", [1, 2, 3, 20, 150, 999])
def test_levels_fall_and_are_as_many_as_steps(name: str, steps: int) -> None:
    levels = SCHEDULES[name].levels
    assert levels is not None

    found = levels(TABLE, steps)

    assert len(found) == steps
    assert (np.diff(found) < 0).all()
    assert found[0] <= HIGH * (1 + 1e-9)
    assert found[-1] >= 0


PAIRS = [
    (name, schedule)
    for name, sampler in SAMPLERS.items()
    for schedule in sampler.schedules
    if SCHEDULES[schedule].levels is not None and len(sampler.schedules) > 4
]


@pytest.mark.parametrize(("name", "schedule"), PAIRS)
def test_every_sampler_walks_the_published_levels(name: str, schedule: str) -> None:
    used = scheduler(name, schedule, "epsilon", 12, SD1)
    levels = SCHEDULES[schedule].levels
    assert levels is not None
    wanted = levels(TABLE, 12)

    found = used.sigmas.double().unique().flip(0).numpy()[:12]

    assert found == pytest.approx(wanted, rel=2e-3)  # diffusers' trailing levels are float32


@pytest.mark.parametrize("name", [n for n, s in SAMPLERS.items() if s.flow])
@pytest.mark.parametrize("schedule", ["simple", "beta", "linear_quadratic"])
def test_every_flow_walks_the_published_levels(name: str, schedule: str) -> None:
    even = np.arange(1, 1001) / 1000
    table = 3 * even / (1 + 2 * even)  # the shift of the family
    levels = SCHEDULES[schedule].levels
    assert levels is not None

    found = scheduler(name, schedule, "flow", 12, FLOW)

    wanted = levels(table, 12)
    assert found.timesteps.unique().flip(0).numpy() / 1000 == pytest.approx(wanted, rel=1e-4)
    assert float(found.sigmas[-1]) < 5e-4  # DEIS and SA-Solver cannot end at 0


@pytest.mark.parametrize("name", [n for n, s in SAMPLERS.items() if s.flow])
def test_every_flow_walks_diffusers_karras(name: str) -> None:
    """Its lowest level is diffusers' own, which is shifted twice: so it is not the formula's."""
    found = scheduler(name, "karras", "flow", 12, FLOW)
    wanted = scheduler("euler", "karras", "flow", 12, FLOW)

    assert torch.equal(found.timesteps.unique(), wanted.timesteps.unique())


def test_a_dense_schedule_begins_at_its_first_level() -> None:
    """Diffusers looks the first step up by its time, which dense levels share once it is rounded."""
    used = scheduler("dpm2", "beta_sigma", "epsilon", 400, SD1)

    used.scale_model_input(torch.zeros(1), used.timesteps[0])

    assert used.step_index == 0


@pytest.mark.parametrize(
    ("said", "own"),
    [
        ("Karras", "karras"),
        ("SGM Uniform", "trailing"),
        ("sgm_uniform", "trailing"),
        ("Uniform", "normal"),
        ("polyexponential", "exponential"),
        ("beta", "beta"),
        ("DDIM", "ddim_uniform"),
        ("KL-Optimal", "kl_optimal"),
        ("ays", "align_your_steps"),
    ],
)
def test_a_schedule_is_found_by_each_tools_name(said: str, own: str) -> None:
    assert find(said) == own


def test_beta_of_a1111_is_another_one() -> None:
    assert find("Beta") == "beta"
    assert find("Beta", tool="a1111") == "beta_sigma"
    assert find("sgm_uniform", tool="a1111") == "trailing"


def test_an_unknown_schedule_gets_the_nearest() -> None:
    with pytest.raises(NotFoundError, match="Did you mean 'karras'"):
        find("karas")
