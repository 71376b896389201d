"""The compiled product of a large matrix with a thin one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memcard.maths import _lora_kernels, _thin_kernels, svd
from memcard.maths._thin_kernels import times

# What other processors have: rows, vectors, values in a vector, one instruction for both.
HELD = [(8, 3, 8, True), (4, 3, 4, True), (4, 3, 2, False), (8, 3, 2, True)]


def matrices(seed, rows, depth, columns):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(size).astype("f4") for size in ((rows, depth), (depth, columns)))


def in_turn(matrix, thin):
    """Add up from the first term to the last, each product and sum rounded once, as one instruction does."""
    total = np.zeros((len(matrix), thin.shape[1]), "f4")
    for k in range(len(thin)):
        total = (matrix[:, k : k + 1].astype("f8") * thin[k] + total).astype("f4")
    return total


@given(
    st.integers(0, 60), st.integers(0, 50), st.integers(1, 120), st.booleans(), st.integers(0, 99)
)
def test_it_is_the_product_whatever_the_shape_and_layout(rows, depth, columns, turned, seed):
    matrix, thin = matrices(seed, rows, depth, columns)
    given_matrix = np.asfortranarray(matrix) if turned else matrix

    made = times(given_matrix, thin)

    assert (made.shape, made.dtype) == ((rows, columns), np.float32)
    assert np.allclose(made, matrix.astype("f8") @ thin, atol=1e-4)


@pytest.mark.parametrize("held", HELD, ids=str)
def test_it_works_on_every_processor(monkeypatch, held):
    matrix, thin = matrices(1, 37, 90, 42)
    monkeypatch.setattr(_thin_kernels, "registers", lambda: _lora_kernels.Registers(*held))
    _thin_kernels._made.cache_clear()

    made = times(matrix, thin)

    _thin_kernels._made.cache_clear()
    assert np.allclose(made, matrix.astype("f8") @ thin, atol=1e-4)


def test_the_order_of_adding_is_that_of_the_depth():
    matrix, thin = matrices(2, 24, 70, 48)

    made = times(matrix, thin)

    if _lora_kernels.registers().fused:
        # float64 rounds the sum first, float32 again: a difference is rare, and of one step
        assert np.mean(made == in_turn(matrix, thin)) > 0.999
    assert np.allclose(made, in_turn(matrix, thin), rtol=0, atol=1e-5)


def test_layout_and_neighbours_do_not_change_a_bit():
    matrix, thin = matrices(3, 43, 65, 50)

    whole = times(matrix, thin)

    assert times(np.asfortranarray(matrix), thin).tobytes() == whole.tobytes()
    assert times(matrix[5:30], thin).tobytes() == whole[5:30].tobytes()
    assert times(matrix, thin[:, :7]).tobytes() == np.ascontiguousarray(whole[:, :7]).tobytes()


def test_without_the_loop_the_approximation_is_as_good(monkeypatch):
    matrix = next(matrices(4, 300, 200, 1))
    made = svd.approximate(matrix, 16)
    monkeypatch.setattr(svd, "_loops", lambda: None)

    again = svd.approximate(matrix, 16)

    errors = [svd.relative_error(matrix, found.up, found.down) for found in (made, again)]
    assert errors[0] == pytest.approx(errors[1], rel=1e-5)
