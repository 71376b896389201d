"""Random numbers of a position: known values, no matter in what pieces they are asked for."""

import numpy as np
import pytest

from memcard.maths.random import below, bits, key, uniform


def test_the_first_values_are_those_of_splitmix64():
    # for the state 1234567, as other implementations of the paper publish them
    expected = [
        *(6457827717110365317, 3203168211198807973, 9817491932198370423),
        *(4593380528125082431, 16408922859458223821),
    ]

    assert list(map(int, bits(1234567, 0, 5))) == expected


@pytest.mark.parametrize(("start", "count"), [(0, 1), (999, 1), (17, 300), (0, 0)])
def test_any_part_of_a_stream_equals_that_part_of_the_whole(start, count):
    stream = key(7, "a.weight", 1)
    whole = uniform(stream, 0, 1000).copy()

    assert np.array_equal(uniform(stream, start, count), whole[start : start + count])


def test_seed_name_and_input_each_make_another_stream():
    keys = [key(0, "a", 0), key(1, "a", 0), key(0, "b", 0), key(0, "a", 1), key(-1, "a", 0)]

    assert len(set(keys)) == 5
    assert keys[0] == 0x6CFA8168DBE9BEE5  # a recipe of today must give the same bits for ever


def test_values_fill_the_interval_evenly():
    values = uniform(key(3, "w", 1), 0, 200_000)

    assert 0 <= values.min() < 1e-4 < 0.9999 < values.max() < 1
    counts = np.histogram(values, 100, (0, 1))[0]
    assert np.abs(counts - 2000).max() < 5 * 2000**0.5


def test_neighbours_and_streams_do_not_depend_on_each_other():
    one, two = (uniform(key(3, "w", i), 0, 200_000).copy() for i in (1, 2))

    assert abs(np.corrcoef(one[1:], one[:-1])[0, 1]) < 0.01
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.01


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_below_keeps_the_share_asked_for(share):
    kept = np.count_nonzero(below(key(0, "w", 1), 0, share, 100_000))

    assert abs(kept - share * 100_000) <= 5 * (share * (1 - share) * 100_000) ** 0.5


def test_below_agrees_with_uniform():
    stream = key(0, "w", 1)

    assert np.array_equal(below(stream, 5, 0.3, 4000), uniform(stream, 5, 4000) < 0.3)
