"""Means on a sphere: the coefficients, against the same formulas on whole vectors."""

from math import pi

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.methods import vectors
from memcard.maths.sphere import (
    REDUCED,
    NoDirectionError,
    gram,
    karcher_weights,
    multislerp_weights,
    nuslerp_weights,
    slerp_weights,
)


def dots_of(arrays, **options):
    flat = [np.ascontiguousarray(a).reshape(-1) for a in arrays]
    return gram(lambda at, n: [a[at : at + n] for a in flat], flat[0].size, len(flat), **options)


def combined(weights, arrays):
    return sum(w * a for w, a in zip(weights, arrays, strict=True))


def length(x):
    return np.linalg.norm(x)


def angle(a, b):
    return np.arccos(np.clip(a @ b / length(a) / length(b), -1, 1))


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("size", [0, 1, 1000, REDUCED + 77])
def test_gram_is_all_dot_products(dtype, size):
    arrays = [a.astype(dtype) for a in vectors(1, 3, size)]
    wide = [a.astype("f8") for a in arrays]

    dots = dots_of(arrays)

    expected = [[float(a @ b) for b in wide] for a in wide]
    assert np.allclose(dots, expected, rtol=1e-12, atol=1e-9)
    assert np.array_equal(dots, dots.T)


def test_gram_from_the_first_is_of_differences():
    base, a, b = vectors(2, 3, 500)

    dots = dots_of([base, a, b], from_first=True)

    assert np.allclose(dots, dots_of([a - base, b - base]), rtol=1e-13)


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("weights_of", [slerp_weights, nuslerp_weights])
def test_slerp_of_unit_vectors_walks_the_arc_at_constant_speed(weights_of, t):
    a, b = (v / length(v) for v in vectors(3, 2, 200))

    made = combined(weights_of(dots_of([a, b]), t), [a, b])

    assert length(made) == pytest.approx(1, abs=1e-12)
    assert angle(a, made) == pytest.approx(t * angle(a, b), abs=1e-7)


def test_slerp_is_plain_where_the_angle_is_small_and_nuslerp_is_not():
    a = vectors(4, 1, 200)[0]
    b = a + 0.01 * vectors(5, 1, 200)[0]
    dots = dots_of([a, b])

    assert slerp_weights(dots, 0.3) == (0.7, 0.3)
    assert nuslerp_weights(dots, 0.3) != (0.7, 0.3)
    assert nuslerp_weights(dots, 0.3) == pytest.approx((0.7, 0.3), abs=1e-3)


@pytest.mark.parametrize("weights_of", [slerp_weights, nuslerp_weights])
@pytest.mark.parametrize(
    "pair",
    [(1, 1), (1, -1), (0, 1), (0, 0), (np.nan, 1), (np.inf, 1)],
    ids=["same", "opposite", "zero", "zeros", "nan", "inf"],
)
def test_what_has_no_angle_is_interpolated(weights_of, pair):
    a = np.arange(1.0, 9.0)

    weights = weights_of(dots_of([pair[0] * a, pair[1] * a]), 0.25)

    if pair == (0, 1):  # a right angle, so to speak: the cosine is 0
        assert weights == pytest.approx((np.sin(0.75 * pi / 2), np.sin(0.25 * pi / 2)))
    elif pair != (0, 0):
        assert weights == (0.75, 0.25)


def test_multislerp_of_two_halves_the_angle_as_slerp_does():
    a, b = (v / length(v) for v in vectors(6, 2, 300))
    dots = dots_of([a, b])

    made = multislerp_weights(dots, [0.5, 0.5])

    assert made == pytest.approx(slerp_weights(dots, 0.5), rel=1e-6)


def test_multislerp_equals_its_formula_on_vectors():
    x = vectors(7, 4, 60)
    w = np.array([0.4, 0.3, 0.2, 0.1])
    unit = [v / (length(v) + 1e-8) for v in x]
    mean = combined(w, unit)
    mean /= length(mean)
    tangent = combined(w, [u - (u @ mean) * mean for u in unit])
    reach = length(tangent) + 1e-8
    expected = np.cos(reach) * mean + np.sin(reach) / reach * tangent

    made = combined(multislerp_weights(dots_of(x), w), x)

    assert np.allclose(made, expected * (w @ [length(v) for v in x]), rtol=1e-9)


def test_multislerp_refuses_three_that_cancel_and_interpolates_two():
    turned = [np.array([np.cos(a), np.sin(a)]) for a in (0, 2 * pi / 3, 4 * pi / 3)]

    with pytest.raises(NoDirectionError):
        multislerp_weights(dots_of(turned), [1 / 3] * 3)
    assert multislerp_weights(dots_of([turned[0], -turned[0]]), [0.5, 0.5]) == (0.5, 0.5)


def karcher(arrays, weights, **options):
    options = {"max_iter": 200, "tol": 1e-12, **options}
    return combined(karcher_weights(dots_of(arrays), weights, **options), arrays)


def test_karcher_mean_is_where_the_pulls_balance():
    x, w = vectors(8, 4, 50), [0.4, 0.3, 0.2, 0.1]

    made = karcher(x, w)

    unit = made / length(made)
    pull = np.zeros(50)
    for weight, v in zip(w, x, strict=True):
        u, theta = v / length(v), angle(v, made)
        pull += weight * theta / np.sin(theta) * (u - (u @ unit) * unit)
    assert length(pull) < 1e-6
    assert length(made) == pytest.approx(sum(wi * length(v) for wi, v in zip(w, x, strict=True)))


def test_karcher_of_two_is_slerp():
    a, b = (v / length(v) for v in vectors(9, 2, 100))

    assert np.allclose(
        karcher([a, b], [0.7, 0.3]), combined(slerp_weights(dots_of([a, b]), 0.3), [a, b])
    )


def test_karcher_leaves_a_zero_out_of_the_direction_but_not_of_the_length():
    a, b = vectors(10, 2, 30)

    made = karcher([a, b, np.zeros(30)], [0.25, 0.25, 0.5])

    assert np.allclose(made, karcher([a, b], [0.5, 0.5]) / 2)


def test_karcher_of_opposites_keeps_the_first_direction():
    a = vectors(11, 1, 30)[0]

    assert np.allclose(karcher([a, -a], [0.5, 0.5]), a)
    assert np.allclose(karcher([np.zeros(30), np.zeros(30)], [0.5, 0.5]), 0)


@given(
    st.lists(st.lists(st.floats(-10, 10), min_size=3, max_size=3), min_size=2, max_size=4),
    st.floats(0, 1),
)
def test_coefficients_are_numbers_whatever_the_vectors(rows, t):
    arrays = [np.array(row) for row in rows]
    share = [1 / len(arrays)] * len(arrays)

    dots = dots_of(arrays)
    try:
        found = [*multislerp_weights(dots, share)]
    except NoDirectionError:
        found = []
    found += slerp_weights(dots, t) + nuslerp_weights(dots, t)
    found += karcher_weights(dots, share, max_iter=10, tol=1e-5)

    assert np.isfinite(found).all()
