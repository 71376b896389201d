"""Low-rank approximation against the best there is."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.long import mostly_slow
from memcard.maths._blas import _switches, one_thread
from memcard.maths.svd import (
    _orthogonal,
    approximate,
    recompress,
    relative_error,
    squared_length,
)


def change(rows, columns, rank=16, noise=0.1, seed=0):
    """A change as fine-tuning makes it: some strong directions and noise."""
    rng = np.random.default_rng(seed)
    strong = rng.standard_normal((rows, rank)) @ rng.standard_normal((rank, columns))
    return (strong + noise * rank**0.5 * rng.standard_normal((rows, columns))).astype("f4")


def best_error(matrix, rank):
    values = np.linalg.svd(matrix.astype("f8"), compute_uv=False)
    return np.sqrt((values[rank:] ** 2).sum() / (values**2).sum())


@pytest.mark.parametrize(
    "shape",
    mostly_slow([(320, 320), (64, 576), (320, 1440), (768, 320)], (320, 320), (64, 576)),
    ids=str,
)
@pytest.mark.parametrize("noise", [0.1, 1.0])
def test_the_error_is_at_most_one_percent_above_the_best(shape, noise):
    matrix = change(*shape, noise=noise)

    made = approximate(matrix, 32, name="x")

    error = relative_error(matrix, made.up, made.down)
    assert error <= 1.01 * best_error(matrix, 32)
    assert made.kept == pytest.approx(1 - error**2, abs=1e-4)


def test_a_matrix_of_low_rank_is_caught_whole():
    matrix = change(60, 40, rank=5, noise=0)

    made = approximate(matrix, 5)

    assert relative_error(matrix, made.up, made.down) < 1e-5


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 30), st.integers(0, 5))
def test_any_shape_and_rank_work(rows, columns, rank, seed):
    matrix = np.random.default_rng(seed).standard_normal((rows, columns)).astype("f4")

    made = approximate(matrix, rank)

    count = min(rank, rows, columns)
    assert (made.up.shape, made.down.shape) == ((rows, count), (count, columns))
    assert relative_error(matrix, made.up, made.down) <= 1.01 * best_error(matrix, count) + 1e-5


@pytest.mark.parametrize("energy", [0.5, 0.9, 0.99])
def test_energy_picks_the_least_rank_that_keeps_enough(energy):
    matrix = change(200, 300, rank=60, noise=0.3)
    values = np.linalg.svd(matrix.astype("f8"), compute_uv=False) ** 2
    needed = int(np.searchsorted(np.cumsum(values) / values.sum(), energy)) + 1

    made = approximate(matrix, 200, energy=energy)

    assert needed <= made.up.shape[1] <= needed + 1
    assert made.kept >= energy


def test_energy_never_exceeds_the_highest_rank():
    made = approximate(change(50, 60, noise=3.0), 8, energy=0.9999)

    assert made.up.shape[1] == 8


def test_the_result_depends_on_seed_and_name_and_nothing_else():
    matrix = change(100, 120)

    first, again = (approximate(matrix, 8, seed=1, name="a") for _ in range(2))
    other = approximate(matrix, 8, seed=1, name="b")

    assert first.up.tobytes() == again.up.tobytes()
    assert first.up.tobytes() != other.up.tobytes()


def test_recompression_is_the_best_of_its_rank():
    rng = np.random.default_rng(0)
    up, down = rng.standard_normal((40, 12)), rng.standard_normal((12, 90))
    whole = up @ down

    made = recompress(up, down, 5)

    error = np.linalg.norm(whole - made.up @ made.down) / np.linalg.norm(whole)
    assert error == pytest.approx(best_error(whole, 5), rel=1e-9)
    assert made.kept == pytest.approx(1 - error**2)


def test_recompression_to_the_full_rank_loses_nothing():
    rng = np.random.default_rng(0)
    up, down = rng.standard_normal((40, 12)), rng.standard_normal((12, 90))

    made = recompress(up, down, 99)

    assert made.up.shape == (40, 12)
    assert np.allclose(made.up @ made.down, up @ down, atol=1e-12)


def test_nothing_at_all_gives_zeros():
    made = approximate(np.zeros((4, 5), "f4"), 2)

    assert not made.up.any()
    assert relative_error(np.zeros((4, 5), "f4"), made.up, made.down) == 0
    assert squared_length(np.zeros(0, "f4")) == 0


@pytest.mark.parametrize("spread", [0, 3, 7, 12], ids="columns alike to 1e-{}".format)
def test_a_basis_is_orthogonal_however_alike_the_columns_are(spread):
    rng = np.random.default_rng(0)
    same = rng.standard_normal((300, 1))
    columns = (same + 10.0**-spread * rng.standard_normal((300, 20))).astype("f4")

    basis = _orthogonal(columns)

    assert np.abs(basis.T @ basis - np.eye(20)).max() < 1e-5
    assert np.allclose(basis @ (basis.T @ columns), columns, atol=1e-5)  # it has the same span


def test_columns_of_zeros_have_a_basis_too():
    basis = _orthogonal(np.zeros((30, 4), "f4"))

    assert np.isfinite(basis).all()


@given(st.integers(0, 5000), st.integers(0, 9))
def test_squared_length_is_the_sum_of_squares(size, seed):
    values = np.random.default_rng(seed).standard_normal(size).astype("f4")

    assert squared_length(values) == pytest.approx(float((values.astype("f8") ** 2).sum()), 1e-5)


@pytest.mark.parametrize("power", [0.5, 1.0])
@pytest.mark.parametrize(
    "shape", mostly_slow([(320, 320), (320, 640), (640, 640)], (320, 320)), ids=str
)
def test_slowly_falling_singular_values_are_caught_to_one_percent(shape, power):
    rng = np.random.default_rng(1)
    count = min(shape)
    left, right = (np.linalg.qr(rng.standard_normal((side, count)))[0] for side in shape)
    values = np.arange(1, count + 1) ** -power
    matrix = (left * values @ right.T).astype("f4")

    made = approximate(matrix, 32, name="x")

    best = np.sqrt((values[32:] ** 2).sum() / (values**2).sum())
    assert relative_error(matrix, made.up, made.down) <= 1.01 * best


SCRIPT = """
import hashlib, numpy as np
from memcard.maths.svd import approximate, recompress
rng = np.random.default_rng(0)
matrix = rng.standard_normal((320, 1000)).astype("f4")
made = approximate(matrix, 16)
again = recompress(rng.standard_normal((300, 64)), rng.standard_normal((64, 700)), 8)
print(hashlib.sha256(b"".join(a.tobytes() for a in (*made[:2], *again[:2]))).hexdigest())
"""


def test_the_bits_do_not_depend_on_the_threads_of_the_blas():
    found = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True,
            env={**os.environ, "OPENBLAS_NUM_THREADS": threads},
        ).stdout
        for threads in ("1", "2", "4")
    }  # fmt: skip

    assert len(found) == 1


def test_the_blas_gets_its_threads_back():
    found = _switches()
    assert found is not None
    before = found[0]()

    with one_thread():
        assert found[0]() == 1

    assert found[0]() == before
