"""Curves in a terminal."""

from memcard.cli import _curve

FALL = [(step, 1 / step) for step in range(1, 101)]


def test_a_falling_curve_falls():
    line = _curve.spark(FALL, 20)
    assert len(line) == 20
    assert (line[0], line[-1]) == ("█", "▁")
    assert sorted(line, reverse=True) == list(line)


def test_few_points_take_few_characters():
    assert _curve.spark([(1, 2.0), (9, 1.0)], 20) == "█▁"
    assert _curve.spark([(7, 2.0)], 20) in "▁▂▃▄▅▆▇█"
    assert _curve.spark([], 20) == ""


def test_plain_characters_are_ascii():
    assert _curve.spark(FALL, 20, plain=True).isascii()
    assert "".join(_curve.chart(FALL, 60, 8, plain=True)).isascii()


def test_nan_leaves_a_gap_and_one_wild_value_does_not_flatten_the_rest():
    values = [1.0, 0.5, float("nan"), 0.25]
    assert _curve.spark(list(enumerate(values)), 4)[2] == " "
    wild = [*FALL, (101, 1e9)]
    assert _curve.spark(wild, 20)[:3] == _curve.spark(FALL, 20)[:3] == "█▃▂"
    assert _curve.chart([(1, float("nan"))], 40, 5) == []


def test_steps_that_are_logged_unevenly_leave_no_holes():
    points = [(1, 3.0), (2, 2.0), (100, 1.0)]
    assert " " not in _curve.spark(points, 3)


def test_the_picture_is_as_wide_and_high_as_asked_with_scales():
    lines = _curve.chart(FALL, 60, 8)
    assert len(lines) == 10
    assert max(map(len, lines)) <= 60
    assert lines[0].split()[0] == "1"
    assert lines[-1].split() == ["1", "100"]
    assert all("│" in line for line in lines[:8])


def test_a_flat_curve_is_drawn():
    assert any(_curve.chart([(1, 2.0), (2, 2.0)], 40, 5))
    assert len(_curve.spark([(1, 0.0), (2, 0.0)], 2)) == 2
