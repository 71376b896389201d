import random
from math import inf

import pytest

from memcard.jobs._tune_race import margin, paired, race, t_quantile


@pytest.mark.parametrize(
    ("p", "freedom", "table"),
    [
        (0.975, 1, 12.706), (0.975, 2, 4.303), (0.975, 3, 3.182), (0.975, 5, 2.571),
        (0.95, 4, 2.132), (0.995, 7, 3.499), (0.975, 11, 2.201), (0.975, 100, 1.984), (0.5, 8, 0.0),
    ],
)  # fmt: skip
def test_quantiles_are_those_of_the_tables(p: float, freedom: int, table: float) -> None:
    assert t_quantile(p, freedom) == pytest.approx(table, rel=0.01, abs=1e-9)


def test_a_margin_is_the_mean_with_students_interval() -> None:
    found = margin([1.0, 2.0, 3.0, 4.0])  # deviation 1.291, of the mean 0.6455; 3.182 times that

    assert found.mean == 2.5
    assert (found.low, found.high) == pytest.approx((2.5 - 2.054, 2.5 + 2.054), abs=0.02)
    assert found.n == 4
    assert found.verdict == "better"


def test_one_value_tells_nothing_about_its_interval() -> None:
    found = margin([1.0])

    assert (found.mean, found.low, found.high) == (1.0, -inf, inf)
    assert found.verdict == "no difference shown"
    assert found.to_dict()["low"] is None


def test_pairs_show_a_difference_that_the_means_alone_would_not() -> None:
    easy_and_hard = [0.0, 10.0, 20.0, 30.0]

    found = paired([v + 0.5 + 0.01 * n for n, v in enumerate(easy_and_hard)], easy_and_hard)

    assert found.verdict == "better"
    assert (
        paired(easy_and_hard, [v + 0.5 + 0.01 * n for n, v in enumerate(easy_and_hard)]).verdict
        == "worse"
    )


def measured(truth: dict[str, float], noise: float, calls: list[tuple[str, int]]):
    source = random.Random(3)
    easy = [source.uniform(0, 10) for _ in range(64)]
    errors = {(c, n): source.gauss(0, noise) for c in truth for n in range(64)}

    def measure(candidate: str, number: int) -> float:
        calls.append((candidate, number))
        return truth[candidate] + easy[number] + errors[candidate, number]

    return measure


def test_the_best_wins_and_the_clearly_worse_leave_after_the_first_round() -> None:
    calls: list[tuple[str, int]] = []
    truth = {"usual": 1.0, "best": 1.5, "bad": -9.0, "worse": -20.0}

    found = race(list(truth), measured(truth, 0.1, calls), first=4, most=16)

    assert found.winner == "best"
    assert found.dropped["bad"] == found.dropped["worse"] == 4
    assert len(found.values["bad"]) == 4
    assert len(calls) == len(set(calls))  # nothing is measured twice


def test_it_costs_less_than_measuring_everything() -> None:
    calls: list[tuple[str, int]] = []
    truth = {str(n): -abs(n - 5) * 0.5 for n in range(12)}

    found = race(list(truth), measured(truth, 0.1, calls), first=4, most=16)

    assert found.winner == "5"
    assert len(calls) < 0.5 * 12 * 16


def test_of_equals_the_first_wins() -> None:
    found = race(["usual", "other"], lambda candidate, number: 1.0, first=2, most=4)

    assert found.winner == "usual"


def test_at_most_half_go_on_even_if_chance_could_explain_all() -> None:
    calls: list[tuple[str, int]] = []
    truth = dict.fromkeys("abcdefgh", 0.0)

    race(list(truth), measured(truth, 1.0, calls), first=2, most=4)

    assert len({c for c, n in calls if n >= 2}) <= 4


def test_a_single_candidate_is_measured_once_through_the_first_round() -> None:
    found = race(["only"], lambda candidate, number: float(number), first=3, most=12)

    assert found.winner == "only"
    assert found.values == {"only": [0.0, 1.0, 2.0]}
