"""The closest rotation: against an SVD of everything, and against what a rotation must keep."""

import numpy as np
import pytest

from memcard.maths.procrustes import rotated


def pair(rows, columns):
    rng = np.random.default_rng(rows * 100 + columns)
    return rng.standard_normal((rows, columns)), rng.standard_normal((rows, columns))


@pytest.mark.parametrize("shape", [(9, 4), (5, 5), (4, 9), (1, 7), (7, 1)])
def test_equals_the_full_solution(shape):
    a, b = pair(*shape)

    made = rotated(a, b)

    u, _, vh = np.linalg.svd(a.T @ b)
    assert np.allclose(made, a @ u @ vh)


@pytest.mark.parametrize("shape", [(9, 4), (4, 9)])
def test_lengths_and_angles_of_the_rows_stay(shape):
    a, b = pair(*shape)

    made = rotated(a, b)

    assert np.allclose(made @ made.T, a @ a.T)


@pytest.mark.parametrize("shape", [(9, 4), (4, 9)])
def test_a_turned_matrix_is_turned_back(shape):
    a, other = pair(*shape)
    turn, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((shape[1], shape[1])))

    assert np.allclose(rotated(a @ turn, a), a)
    assert np.linalg.norm(rotated(a, other) - other) < np.linalg.norm(a - other)


def test_matrices_without_full_rank_are_fine():
    a = np.outer([1.0, 2.0, 0.0], np.arange(6.0))

    assert np.allclose(rotated(a, a), a)
    assert np.allclose(rotated(np.zeros((3, 6)), a), 0)
