"""fisher and regmean: averages that follow statistics where there are some."""

import numpy as np
import pytest

from fixtures import small
from fixtures.methods import run, run_on, vectors
from memcard.errors import MismatchError, UsageError
from memcard.formats import open_file
from memcard.formats.safetensors import PLUGIN as SAFETENSORS
from memcard.ops import OPS
from memcard.recipes.bake import bake
from memcard.recipes.nodes import Apply, Source


def test_fisher_equals_its_formula(tmp_path):
    models, sure = vectors(1, 3, 5, 4), [x**2 for x in vectors(2, 3, 5, 4)]

    made = run_on(tmp_path, "fisher", *models, *sure, weights=[1, 2, 1])

    w = [s * k for s, k in zip(sure, (1, 2, 1), strict=True)]
    expected = sum(x * m for x, m in zip(w, models, strict=True)) / sum(w)
    assert np.allclose(made, expected, rtol=1e-6)


def test_fisher_averages_plainly_where_no_model_is_sure(tmp_path):
    made = run_on(tmp_path, "fisher", [1.0, 1.0], [3.0, 3.0], [0.0, 0.0], [0.0, 1.0])

    assert np.allclose(made, [2, 3], atol=1e-5)


def test_fisher_with_weight_zero_keeps_an_infinity_out(tmp_path):
    made = run_on(tmp_path, "fisher", [1.0], [np.inf], [1.0], [1.0], weights=[1, 0])

    assert made.tolist() == [1]


def gram(seed, size, samples=50):
    seen = np.random.default_rng(seed).standard_normal((samples, size))
    return seen.T @ seen


def test_regmean_is_the_least_squares_solution(tmp_path):
    models, seen = (
        vectors(3, 2, 6, 4),
        [np.random.default_rng(i).standard_normal((50, 4)) for i in (1, 2)],
    )

    made = run_on(tmp_path, "regmean", *models, *(x.T @ x for x in seen), alpha=1)

    # the one layer whose outputs on both data sets are closest to those of its own model
    wanted = np.concatenate([x @ m.T for x, m in zip(seen, models, strict=True)])
    expected, *_ = np.linalg.lstsq(np.concatenate(seen), wanted)
    assert np.allclose(made, expected.T)


def test_regmean_with_alpha_zero_weighs_columns_by_their_size(tmp_path):
    models, grams = vectors(4, 2, 6, 4), [gram(3, 4), gram(4, 4)]

    made = run_on(tmp_path, "regmean", *models, *grams, alpha=0)

    sizes = [np.diag(g) for g in grams]
    assert np.allclose(made, (models[0] * sizes[0] + models[1] * sizes[1]) / sum(sizes))


def test_regmean_of_a_convolution_flattens_the_kernel(tmp_path):
    models, grams = vectors(5, 2, 3, 2, 2, 2), [gram(5, 8), gram(6, 8)]

    made = run_on(tmp_path, "regmean", *models, *grams)

    flat = [m.reshape(3, 8) for m in models]
    (tmp_path / "flat").mkdir()
    assert np.array_equal(made.reshape(3, 8), run_on(tmp_path / "flat", "regmean", *flat, *grams))


def test_regmean_gives_the_same_bits_for_any_threads_and_chunks(tmp_path):
    names = [f"w{i}" for i in range(6)]
    models = [dict(zip(names, vectors(s, 6, 30, 40), strict=True)) for s in (1, 2)]
    grams = [{n: gram(s, 40) for n in names[:4]} for s in (3, 4)]
    inputs = [small.save(tmp_path / str(i), x) for i, x in enumerate((*models, *grams))]
    node = Apply("regmean", tuple(Source(str(p)) for p in inputs))

    files = []
    for threads, chunk in ((1, 1 << 30), (4, 999)):
        out = tmp_path / f"{threads}.safetensors"
        sink = SAFETENSORS.create(out)
        bake(node, lambda s: open_file(s.ref), OPS, sink, threads=threads, chunk=chunk)
        files.append(out.read_bytes())

    assert files[0] == files[1]


def test_regmean_refuses_a_singular_sum(tmp_path):
    nothing = np.zeros((4, 4))

    with pytest.raises(MismatchError, match=r"'w': the sum of the Gram matrices has no inverse"):
        run_on(tmp_path, "regmean", *vectors(6, 2, 3, 4), nothing, nothing)


@pytest.mark.parametrize("method", ["fisher", "regmean"])
def test_tensors_without_statistics_are_averaged_and_told(tmp_path, method):
    models = [{"w": m, "b": m[0]} for m in vectors(7, 2, 4, 4)]
    statistics = [{"w": gram(i, 4)} for i in (1, 2)]

    result = run(tmp_path, method, *models, *statistics)

    expected = 0.5 * models[0]["b"] + 0.5 * models[1]["b"]
    assert np.allclose(small.array_of(result, "b"), expected, rtol=1e-14)
    assert result.notes == ("no statistics for it, averaged (b)",)


def test_half_precision_models_and_float32_statistics(tmp_path):
    models = [m.astype(small.NUMPY["BF16"]) for m in vectors(8, 2, 4, 4)]
    grams = [gram(i, 4).astype("f4") for i in (1, 2)]

    assert run_on(tmp_path, "regmean", *models, *grams).dtype == small.NUMPY["BF16"]
    assert run_on(tmp_path, "fisher", *models, *grams).dtype == small.NUMPY["BF16"]


def test_all_that_does_not_fit_is_told_at_once(tmp_path):
    models = [{"w": m, "b": m[0], "c": m[0]} for m in vectors(9, 2, 3, 4)]
    one, two = (
        {"w": gram(1, 4), "b": np.ones(3), "x": np.ones(1)},
        {"b": np.ones(4), "x": np.ones(1)},
    )

    with pytest.raises(MismatchError) as caught:
        run(tmp_path, "fisher", *models, one, two)

    text = str(caught.value)
    assert "'w': [4, 4] in input 3, [3, 4] is wanted" in text
    assert "'w': not in input 4, but in other Fisher information" in text
    assert "'b': [3] in input 3, [4] is wanted" in text
    assert "'x': in the Fisher information, not in the models" in text


@pytest.mark.parametrize(
    ("method", "count", "params", "says"),
    [
        ("fisher", 5, {}, "models first, then one file of Fisher information for each"),
        ("regmean", 5, {}, "models first, then one file of Gram matrices for each"),
        ("fisher", 4, {"weights": [1]}, "1 given for 2 models"),
        ("fisher", 4, {"floor": 0}, "at least"),
        ("regmean", 4, {"alpha": 2}, "from 0 to 1"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path, method, count, params, says):
    with pytest.raises(UsageError, match=says):
        run(tmp_path, method, *(small.weights(i) for i in range(count)), **params)
