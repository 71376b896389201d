"""Decays against their closed forms."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memcard.errors import UsageError
from memcard.training.decays import (
    POST_HOC,
    Constant,
    Decay,
    InverseGamma,
    Power,
    WarmUp,
    named,
)

RULES = [Constant(0.99), WarmUp(0.99), InverseGamma(0.99), Power(0.1)]


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.name)
@given(before=st.integers(0, 10**6), gap=st.integers(1, 1000))
def test_a_decay_is_a_share_and_longer_gaps_keep_less(rule, before, gap):
    one, more = rule.decay(before, before + gap), rule.decay(before, before + gap + 1)

    assert isinstance(rule, Decay)
    assert 0 <= one < 1
    if isinstance(rule, Constant | Power):
        assert more <= one


@pytest.mark.parametrize("rule", [Constant(0.99), Power(0.1)])
@given(before=st.integers(1, 10**5), gap=st.integers(2, 50))
def test_one_step_of_many_keeps_what_many_steps_of_one_keep(rule, before, gap):
    steps = range(before, before + gap)

    assert rule.decay(before, before + gap) == pytest.approx(
        math.prod(rule.decay(t, t + 1) for t in steps), rel=1e-6
    )


def test_the_power_function_is_that_of_the_paper():
    rule = Power(0.1)

    assert rule.decay(0, 1) == 0
    assert rule.decay(99, 100) == pytest.approx((1 - 1 / 100) ** (rule.gamma + 1))
    assert [round(p.gamma, 2) for p in POST_HOC] == [16.97, 6.94]


def test_warm_ups_grow_to_their_value():
    assert [WarmUp(0.5).decay(t, t + 1) for t in (0, 1, 8, 99)] == [0, 2 / 11, 0.5, 0.5]
    assert InverseGamma(0.9999).decay(999, 1000) == pytest.approx(1 - 1000 ** (-2 / 3))
    assert InverseGamma(0.5).decay(999, 1000) == 0.5


def test_names_tell_rules_apart():
    assert list(named([0.999, WarmUp(), Power(0.05), InverseGamma(0.99, 2, 0.75)])) == [
        "0.999",
        "warmup_0.9999",
        "power_0.05",
        "inverse_0.99_2_0.75",
    ]
    assert named({"short": 0.9}) == {"short": Constant(0.9)}


@pytest.mark.parametrize(
    ("rule", "given_values"),
    [
        (Constant, (-0.1,)),
        (WarmUp, (1.0,)),
        (InverseGamma, (0.9, 1.0, 0.0)),
        (Power, (0.4,)),
        (named, ({},)),
        (named, ({"a/b": 0.9},)),
    ],
)
def test_odd_rules_are_refused(rule, given_values):
    with pytest.raises(UsageError):
        rule(*given_values)
