"""Post-hoc EMA against the recurrence it stands for."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memcard.errors import UsageError
from memcard.maths.ema import WIDEST, Profile, gamma_of, overlap, sigma_rel_of, synthesize

LAST = 2048


def tracked(values, sigma_rel):
    """The recurrence itself, step by step: what a trainer would keep."""
    gamma, average, found = gamma_of(sigma_rel), 0.0, {}
    for step, value in enumerate(values, 1):
        beta = (1 - 1 / step) ** (gamma + 1)
        average = beta * average + (1 - beta) * value
        found[step] = average
    return found


@pytest.fixture(scope="module")
def walk():
    return np.cumsum(np.random.default_rng(0).standard_normal(LAST))


@pytest.mark.parametrize(("sigma_rel", "gamma"), [(0.05, 16.97), (0.10, 6.94), (WIDEST, 0.0)])
def test_exponents_are_those_of_the_paper(sigma_rel, gamma):
    assert gamma_of(sigma_rel) == pytest.approx(gamma, abs=0.005)


@settings(deadline=None)
@given(st.floats(1e-4, WIDEST))
def test_width_and_exponent_invert_each_other(sigma_rel):
    assert sigma_rel_of(gamma_of(sigma_rel)) == pytest.approx(sigma_rel, rel=1e-6)


@pytest.mark.parametrize(("a", "b"), [((900, 0.05), (1000, 0.1)), ((1000, 0.2), (400, 0.03))])
def test_inner_products_are_the_integral(a, b):
    one, two = Profile(*a), Profile(*b)
    tau = (np.arange(4_000_000) + 0.5) * (min(a[0], b[0]) / 4_000_000)

    def density(p):
        gamma = gamma_of(p.sigma_rel)
        return (gamma + 1) * (tau / p.step) ** gamma / p.step

    wanted = float((density(one) * density(two)).sum() * (tau[1] - tau[0]))
    assert overlap(one, two) == pytest.approx(wanted, rel=1e-6)
    assert overlap(two, one) == overlap(one, two)


@pytest.mark.parametrize(
    ("target", "most"), [(0.05, 1e-9), (0.07, 1e-3), (0.12, 1e-3), (0.2, 1e-3), (0.03, 2e-2)]
)
def test_any_width_comes_out_as_if_it_had_been_kept(walk, target, most):
    kept = {sigma: tracked(walk, sigma) for sigma in (0.05, 0.1)}
    snapshots = [Profile(step, s) for step in range(64, LAST + 1, 64) for s in kept]

    weights, error = synthesize(snapshots, Profile(LAST, target))

    got = sum(w * kept[p.sigma_rel][p.step] for w, p in zip(weights, snapshots, strict=True))
    wanted = tracked(walk, target)[LAST]
    assert abs(got - wanted) < most * abs(wanted - walk[-1])
    assert sum(weights) == pytest.approx(1, abs=1e-3)
    assert error < 0.02


def test_an_earlier_step_can_be_the_target(walk):
    kept = {sigma: tracked(walk, sigma) for sigma in (0.05, 0.1)}
    snapshots = [Profile(step, s) for step in range(64, 1025, 64) for s in kept]

    weights, _ = synthesize(snapshots, Profile(1024, 0.08))

    got = sum(w * kept[p.sigma_rel][p.step] for w, p in zip(weights, snapshots, strict=True))
    wanted = tracked(walk, 0.08)[1024]
    assert abs(got - wanted) < 1e-3 * abs(wanted - walk[1023])


def test_a_poor_fit_says_so():
    _, error = synthesize([Profile(1000, 0.05)], Profile(2000, 0.05))

    assert 0.5 < error <= 1


def test_one_snapshot_of_the_target_itself_is_weight_one():
    weights, error = synthesize([Profile(500, 0.1)], Profile(500, 0.1))

    assert weights == pytest.approx((1.0,))
    assert error == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("sigma_rel", [0, -0.1, 0.3, math.nan, math.inf])
def test_widths_out_of_range_are_refused(sigma_rel):
    with pytest.raises(UsageError, match="sigma_rel is"):
        gamma_of(sigma_rel)


@pytest.mark.parametrize(
    ("snapshots", "text"),
    [
        ([], "at least one"),
        ([Profile(0, 0.1)], "step 0"),
        ([Profile(5, 0.1), Profile(5, 0.1)], "is there twice"),
    ],
)
def test_snapshots_that_make_no_sense_are_refused(snapshots, text):
    with pytest.raises(UsageError, match=text):
        synthesize(snapshots, Profile(10, 0.1))
