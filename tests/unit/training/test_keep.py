"""Which saves stay: every rule alone, all together, and that going by them step by step changes nothing."""

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memcard.errors import UsageError
from memcard.training.keep import Keep


@dataclass(frozen=True)
class Save:
    step: int
    time: float = 0.0
    metrics: dict = field(default_factory=dict)


def of_losses(*losses):
    return [Save(i + 1, metrics={"loss": loss}) for i, loss in enumerate(losses)]


def test_the_newest_stay():
    assert Keep(last=2).choose(of_losses(1, 2, 3, 4)) == {3, 4}


def test_the_best_stay_beside_the_newest():
    saves = of_losses(3, 1, 2, 5, 4)
    assert Keep(last=1, best=2, by="loss").choose(saves) == {2, 3, 5}
    assert Keep(last=1, best=2, by="loss", mode="max").choose(saves) == {4, 5}


def test_of_equals_the_older_is_the_better():
    assert Keep(last=1, best=1, by="loss").choose(of_losses(1, 1, 1)) == {1, 3}


def test_saves_without_the_metric_or_with_nan_are_never_best():
    saves = [Save(1), Save(2, metrics={"loss": math.nan}), Save(3, metrics={"loss": 9.0}), Save(4)]
    assert Keep(last=1, best=2, by="loss").choose(saves) == {3, 4}


def test_multiples_stay_for_ever():
    saves = [Save(step) for step in range(1, 100)]
    assert Keep(last=1, every=40).choose(saves) == {40, 80, 99}


def test_one_of_each_hour_stays():
    saves = [Save(i, time=i * 600.0) for i in range(20)]  # every ten minutes
    assert Keep(last=1, hours=1).choose(saves) == {0, 6, 12, 18, 19}


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 3000)), max_size=30))
def test_thinning_out_after_every_save_ends_where_thinning_out_at_the_end_does(rows):
    keep = Keep(last=2, best=2, by="loss", every=5, hours=1)
    time, there, everything = 0.0, [], []
    for i, (loss, seconds) in enumerate(rows):
        time += seconds
        save = Save(i + 1, time, {"loss": loss})
        everything.append(save)
        there.append(save)
        stay = keep.choose(there)
        assert save.step in stay
        there = [save for save in there if save.step in stay]

    assert {save.step for save in there} == keep.choose(everything)


@pytest.mark.parametrize(
    ("step", "metrics", "wanted"),
    [
        (10, {}, True),  # a multiple
        (11, {}, False),
        (11, {"loss": 0.5}, True),  # the best of all
        (11, {"loss": 2.5}, False),
        (11, {"loss": 1.0}, False),  # as good as one that is there
        (11, {"loss": math.nan}, False),
        (11, {"other": 0.0}, False),
    ],
)
def test_a_save_that_a_rule_would_keep_is_wanted(step, metrics, wanted):
    keep = Keep(best=2, by="loss", every=10)
    assert keep.wants(step, metrics, of_losses(1, 2, 1, 1.0)) is wanted


def test_the_first_measured_one_is_wanted():
    assert Keep(best=1, by="loss").wants(3, {"loss": 9}, [Save(1)])


@pytest.mark.parametrize(
    "rules",
    [{"last": 0}, {"best": -1}, {"best": 1}, {"by": "x"}, {"every": 0}, {"hours": 0}, {"hours": math.nan},
     {"mode": "lowest", "best": 1, "by": "x"}],
)  # fmt: skip
def test_rules_that_make_no_sense_are_refused(rules):
    with pytest.raises(UsageError, match="Keep"):
        Keep(**rules)


def test_all_faults_are_told_at_once():
    with pytest.raises(UsageError, match=r"last is 0.*every is 0"):
        Keep(last=0, every=0)
