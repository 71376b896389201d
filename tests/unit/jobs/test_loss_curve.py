"""Where the dots, the line and the scales of a curve go."""

from itertools import pairwise

import pytest

from memcard.jobs._loss_curve import finite, plot, smoothed


def test_the_ends_of_a_curve_are_the_corners_of_its_frame() -> None:
    found = plot([(10, 1.0), (20, 3.0), (30, 2.0)], [1.0, 3.0, 2.0])

    assert found.dots == ((0.0, 0.0), (0.5, 1.0), (1.0, 0.5))
    assert found.line == found.dots


def test_scales_are_round_numbers_inside_the_frame() -> None:
    found = plot([(step, step / 1000) for step in range(1, 1800)])

    assert [text for text, _ in found.columns] == ["500", "1,000", "1,500"]
    assert [text for text, _ in found.rows] == ["0.5", "1", "1.5"]
    for _, share in (*found.columns, *found.rows):
        assert 0 <= share <= 1
    assert found.columns[1][1] == pytest.approx(999 / 1798)


def test_steps_are_whole_numbers_however_few_they_are() -> None:
    assert [text for text, _ in plot([(3, 1.0), (4, 2.0)]).columns] == ["3", "4"]
    assert [text for text, _ in plot([(0, 1.0)]).columns] == ["0", "1"]


def test_samples_that_lie_close_together_do_not_crowd_out_the_others() -> None:
    sparse = [(step, 1.0) for step in range(0, 100_000, 1000)]
    dense = [(step, 2.0) for step in range(100_000, 110_000)]

    dots = plot([*sparse, *dense]).dots

    assert len(dots) <= 601
    assert sum(x < 100_000 / 110_000 for x, _ in dots) >= len(sparse)


def test_a_few_wild_values_do_not_flatten_the_rest() -> None:
    values = [1.0 + (n % 7) / 10 for n in range(1000)]
    values[500] = 1e6

    found = plot(list(enumerate(values)))

    assert max(y for _, y in found.dots) == 1.0
    assert len({round(y, 2) for _, y in found.dots}) >= 7


def test_the_average_begins_at_the_first_value_and_follows() -> None:
    average = smoothed([4.0] * 50 + [0.0] * 200)
    assert average[:50] == pytest.approx([4.0] * 50)
    assert average[-1] < 0.01
    assert all(a >= b - 1e-9 for a, b in pairwise(average))


def test_what_is_no_number_is_left_out() -> None:
    assert finite([(1, 1.0), (2, float("nan")), (3, float("inf")), (4, 2.0)]) == [
        (1, 1.0),
        (4, 2.0),
    ]
