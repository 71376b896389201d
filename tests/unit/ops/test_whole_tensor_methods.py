"""top_k_sum, arcee_fusion, rotate: what needs to see a whole tensor."""

import numpy as np
import pytest
import torch
from sd_mecha.extensions.builtin.merge_methods import slicing, svd

from fixtures import small
from fixtures.methods import run, run_on, vectors


@pytest.mark.parametrize(("width", "offset"), [(1, 0), (0, 0), (0.3, 0), (0.3, 0.5), (0.6, 0.7)])
@pytest.mark.parametrize("dtype", ["f8", "f4"])
def test_top_k_sum_equals_sd_mechas(tmp_path, width, offset, dtype):
    a, b = (x.astype(dtype) for x in vectors(1, 2, 20, 11))

    made = run_on(tmp_path, "top_k_sum", a, b, width=width, offset=offset)

    theirs = slicing.top_k_tensor_sum.__wrapped__(
        torch.tensor(a), torch.tensor(b), width=width, offset=offset
    ).numpy()
    if dtype == "f4":
        assert np.array_equal(made, theirs)
    else:  # theirs finds the limits in float32
        assert np.mean(made == theirs) > 0.98


def test_top_k_sum_gives_as_values_in_bs_order(tmp_path):
    made = run_on(tmp_path, "top_k_sum", [5.0, -1.0, 3.0], [0.1, 0.2, 0.3])

    assert made.tolist() == [-1, 3, 5]


def test_top_k_sum_ranks_equal_values_by_their_place(tmp_path):
    assert run_on(tmp_path, "top_k_sum", [4.0, 3.0, 2.0, 1.0], [7.0] * 4).tolist() == [1, 2, 3, 4]


def scores(base, tuned):
    """The importance of each weight by torch, in float64."""
    base, tuned = torch.tensor(base), torch.tensor(tuned)
    p, q = tuned.softmax(-1) + 1e-8, base.softmax(-1) + 1e-8
    return ((tuned - base).abs() * (p * (p / q).log()).sum(-1, keepdim=True)).numpy()


@pytest.mark.parametrize("shape", [(40, 30), (50,), (6, 5, 3, 3)])
def test_arcee_fusion_takes_the_outliers_only(tmp_path, shape):
    base, tuned = vectors(2, 2, *shape)

    made = run_on(tmp_path, "arcee_fusion", base, tuned)

    found = scores(base, tuned)
    ranked = np.sort(found, axis=None)
    first, middle, third = (ranked[int(q * (ranked.size - 1))] for q in (0.25, 0.5, 0.75))
    takes = found >= middle + 1.5 * (third - first)
    assert 0 < np.count_nonzero(takes) < takes.size / 2
    assert np.array_equal(made, np.where(takes, tuned, base))


def test_arcee_fusion_of_a_scalar_is_the_tuned_one(tmp_path):
    assert run_on(tmp_path, "arcee_fusion", 1.0, 2.0) == 2


def test_arcee_fusion_leaves_rows_with_nan_at_the_base(tmp_path):
    base, tuned = vectors(3, 2, 20, 10)
    tuned[4, 4] = np.nan

    made = run_on(tmp_path, "arcee_fusion", base, tuned)

    assert np.array_equal(made[4], base[4])


@pytest.mark.parametrize("shape", [(9, 4), (5, 5), (30, 2, 1, 1), (4, 3, 3, 3)])
@pytest.mark.parametrize("alpha", [0.0, 0.25])
@pytest.mark.parametrize("centralization", [0.0, 0.5, 1.0])
def test_rotate_of_tall_matrices_equals_sd_mechas(tmp_path, shape, alpha, centralization):
    a, b = vectors(4, 2, *shape)

    made = run_on(tmp_path, "rotate", a, b, alpha=alpha, centralization=centralization)

    theirs = svd.rotate.__wrapped__(
        *({"w": torch.tensor(x)} for x in (a, b)),
        alpha=torch.tensor(alpha).double(),
        centralization=centralization,
        key="w",
    )
    assert np.allclose(made, theirs.numpy(), atol=1e-9)


@pytest.mark.parametrize("shape", [(9, 4), (4, 9)])
def test_rotate_brings_a_closer_to_b_and_keeps_the_rows_lengths(tmp_path, shape):
    a, b = vectors(5, 2, *shape)

    made = run_on(tmp_path, "rotate", a, b, centralization=0)

    assert np.allclose(np.linalg.norm(made, axis=1), np.linalg.norm(a, axis=1))
    assert np.linalg.norm(made - b) < np.linalg.norm(a - b)


@pytest.mark.parametrize("shape", [(4, 9), (7,), (), (0, 3), (2, 0)])
def test_rotate_with_alpha_one_is_b(tmp_path, shape):
    a, b = vectors(6, 2, *shape)

    assert np.array_equal(run_on(tmp_path, "rotate", a, b, alpha=1), b)


def test_rotate_interpolates_biases_and_keeps_what_is_equal(tmp_path):
    a, b = vectors(7, 2, 8)
    w = vectors(8, 1, 5, 4)[0]

    assert np.allclose(run_on(tmp_path, "rotate", a, b, alpha=0.25), 0.75 * a + 0.25 * b)
    assert np.array_equal(run_on(tmp_path, "rotate", w, w), w)


def test_rotate_shows_a_nan_and_does_not_fail(tmp_path):
    a, b = small.weights(1), small.weights(2)
    a["b.weight"][0, 0, 0, 0] = np.nan

    result = run(tmp_path, "rotate", a, b)

    assert np.isnan(small.array_of(result, "b.weight")).sum() == 1
    assert result.nonfinite == {"b.weight": 1}
