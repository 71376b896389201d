"""slerp, nuslerp, multislerp, karcher: whole files against the formulas on whole tensors."""

import numpy as np
import pytest
import torch

from fixtures import small
from fixtures.methods import run, run_on, vectors
from memcard.errors import MismatchError, UsageError

SHAPE = (6, 5, 3, 3)


def slerp(a, b, t, axis=None):
    """Written for clarity: unit directions, the angle between them, the two coefficients."""
    unit = [x / np.sqrt(np.sum(x * x, axis=axis, keepdims=axis is not None)) for x in (a, b)]
    angle = np.arccos(np.sum(unit[0] * unit[1], axis=axis, keepdims=axis is not None))
    return (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)


@pytest.mark.parametrize("t", [0.0, 0.25, 1.0])
def test_slerp_equals_its_formula(tmp_path, t):
    a, b = vectors(1, 2, *SHAPE)

    assert np.allclose(run_on(tmp_path, "slerp", a, b, t=t), slerp(a, b, t), rtol=1e-12)


def test_slerp_equals_sd_mechas_where_the_lengths_are_one(tmp_path):
    from sd_mecha.extensions.builtin.merge_methods.linear import slerp as theirs

    a, b = (x / np.linalg.norm(x) for x in vectors(2, 2, *SHAPE))

    made = run_on(tmp_path, "slerp", a, b, t=0.3)

    expected = theirs.__wrapped__(torch.tensor(a), torch.tensor(b), torch.tensor(0.3).double())
    assert np.abs(made - expected.numpy()).max() < 1e-7


def test_slerp_of_nearly_parallel_models_is_their_average(tmp_path):
    a = vectors(3, 1, *SHAPE)[0]
    b = a + vectors(4, 1, *SHAPE)[0] / 1000

    made = run_on(tmp_path, "slerp", a, b, t=0.25)

    assert np.allclose(made, 0.75 * a + 0.25 * b, rtol=1e-14, atol=0)


@pytest.mark.parametrize("weights", [[1, 1], [3, 1], [1, -1]])
def test_nuslerp_interpolates_the_changes_from_a_base(tmp_path, weights):
    base, a, b = vectors(5, 3, *SHAPE)

    made = run_on(tmp_path, "nuslerp", base, a, b, task_vectors=True, weights=weights)

    t = weights[1] / sum(weights) if sum(weights) else 0.5
    assert np.allclose(made, base + slerp(a - base, b - base, t), rtol=1e-11)


@pytest.mark.parametrize("row_wise", [False, True])
@pytest.mark.parametrize("task_vectors", [False, True])
def test_nuslerp_by_rows_gives_each_its_angle(tmp_path, row_wise, task_vectors):
    base, a, b = vectors(6, 3, *SHAPE)
    inputs = [base, a, b] if task_vectors else [a, b]

    made = run_on(
        tmp_path,
        *("nuslerp", *inputs),
        flatten=False,
        row_wise=row_wise,
        task_vectors=task_vectors,
        weights=[0.7, 0.3],
    )

    zero = base if task_vectors else 0.0
    expected = zero + slerp(a - zero, b - zero, 0.3, axis=0 if row_wise else -1)
    assert np.allclose(made, expected, rtol=1e-10)


@pytest.mark.parametrize("shape", [(), (5,), (4, 1), (1, 4), (0, 3), (3, 0)])
@pytest.mark.parametrize("row_wise", [False, True])
def test_nuslerp_by_rows_of_odd_shapes(tmp_path, shape, row_wise):
    base, a, b = (np.abs(x) for x in vectors(7, 3, *shape))
    options = {"task_vectors": True, "flatten": False, "row_wise": row_wise}

    made = run_on(tmp_path, "nuslerp", base, a, b, **options, weights=[1, 3])

    assert made.shape == shape
    assert np.isfinite(made).all()
    if shape == (4, 1) and not row_wise:
        assert np.allclose(made, 0.25 * a + 0.75 * b)


def test_nuslerp_by_rows_that_are_equal_or_opposite_is_plain(tmp_path):
    a = vectors(8, 1, 3, 8)[0]
    b = a * np.array([[1.0], [-1.0], [2.0]])

    made = run_on(tmp_path, "nuslerp", a, b, flatten=False, weights=[0.75, 0.25])

    assert np.allclose(made, 0.75 * a + 0.25 * b)


def test_multislerp_keeps_the_mean_length_and_lies_between(tmp_path):
    models = vectors(9, 3, *SHAPE)

    made = run_on(tmp_path, "multislerp", *models, weights=[1, 2, 1])

    lengths = [np.linalg.norm(m) for m in models]
    assert np.linalg.norm(made) == pytest.approx(np.average(lengths, weights=[1, 2, 1]), rel=1e-6)
    direction = made / np.linalg.norm(made)
    units = [m / n for m, n in zip(models, lengths, strict=True)]
    mean = np.average(units, axis=0, weights=[1, 2, 1])
    assert np.sum(direction * mean) / np.linalg.norm(mean) > 0.99


def test_multislerp_and_karcher_meet_for_two(tmp_path):
    base, a, b = vectors(10, 3, *SHAPE)

    one = run_on(tmp_path, "multislerp", base, a, b, task_vectors=True)
    other = run_on(tmp_path, "karcher", a - base, b - base, max_iter=50, tol=1e-9)

    assert np.allclose(one, base + other, rtol=1e-5, atol=1e-6)


def test_multislerp_with_normalize_false_scales_the_result(tmp_path):
    models = vectors(11, 2, *SHAPE)

    plain = run_on(tmp_path, "multislerp", *models, weights=[0.5, 0.5])
    twice = run_on(tmp_path, "multislerp", *models, weights=[1, 1], normalize=False)

    assert np.allclose(twice, 2 * plain, rtol=1e-6)


def test_multislerp_refuses_models_that_cancel(tmp_path):
    turned = [np.array([np.cos(a), np.sin(a)]) for a in np.arange(3) * 2 * np.pi / 3]

    with pytest.raises(MismatchError, match=r"'w': the models cancel each other"):
        run_on(tmp_path, "multislerp", *turned)


@pytest.mark.parametrize("method", ["multislerp", "karcher"])
@pytest.mark.parametrize("shape", [(), (1, 1)])
def test_single_numbers_are_averaged_plainly(tmp_path, method, shape):
    numbers = [np.full(shape, x) for x in (1.0, -1.0, -1.0)]

    made = run_on(tmp_path, method, *numbers, weights=[0.5, 0.25, 0.25])

    assert np.allclose(made, 0, atol=1e-7)


def test_karcher_of_one_model_twice_is_that_model(tmp_path):
    a = small.weights(1, "F32")

    result = run(tmp_path, "karcher", a, a, a)

    for name, array in a.items():
        assert np.allclose(small.array_of(result, name), array, rtol=1e-7, atol=0)


def test_karcher_weights_pull(tmp_path):
    a, b = (x / np.linalg.norm(x) for x in vectors(12, 2, *SHAPE))

    made = run_on(tmp_path, "karcher", a, b, weights=[3, 1])

    assert np.allclose(made, slerp(a, b, 0.25), atol=1e-7)


@pytest.mark.parametrize("method", ["slerp", "nuslerp", "multislerp", "karcher"])
def test_one_rounding_at_the_end(tmp_path, method):
    a, b = small.weights(1), small.weights(2)
    wide = [{n: x.astype("f8") for n, x in arrays.items()} for arrays in (a, b)]
    (tmp_path / "wide").mkdir()

    narrow, exact = run(tmp_path, method, a, b), run(tmp_path / "wide", method, *wide)

    for name in a:
        expected = small.array_of(exact, name).astype("f2")
        assert np.array_equal(small.array_of(narrow, name), expected)


@pytest.mark.parametrize("method", ["slerp", "nuslerp", "multislerp", "karcher"])
def test_a_nan_stays_where_it_is_and_is_counted(tmp_path, method):
    a, b = small.weights(1), small.weights(2)
    a["a.weight"][5] = np.nan

    result = run(tmp_path, method, a, b)

    assert np.flatnonzero(np.isnan(small.array_of(result, "a.weight"))).tolist() == [5]
    assert result.nonfinite == {"a.weight": 1}


@pytest.mark.parametrize(
    ("method", "count", "params", "says"),
    [
        ("nuslerp", 3, {}, "give two models"),
        ("nuslerp", 2, {"task_vectors": True}, "a base and two models"),
        ("nuslerp", 2, {"weights": [1]}, "1 given for 2 models"),
        ("multislerp", 2, {"task_vectors": True}, "two models at least"),
        ("multislerp", 2, {"weights": [1, -1]}, "add up to 0"),
        ("karcher", 3, {"weights": [1, 1]}, "2 given for 3 models"),
        ("slerp", 2, {"t": 1.5}, "from 0 to 1"),
        ("slerp", 3, {}, "takes 2 inputs"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path, method, count, params, says):
    with pytest.raises(UsageError, match=says):
        run(tmp_path, method, *(small.weights(i) for i in range(count)), **params)
