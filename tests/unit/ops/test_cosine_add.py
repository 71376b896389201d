"""cosine_add: one look at the whole model, then a mix of each column."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity, normalize

from fixtures import small
from fixtures.methods import run, vectors
from memcard.errors import UsageError
from memcard.ops import OPS
from memcard.ops.cosine_add import similarities

SHAPES = {"big": (40, 300), "conv": (8, 5, 3, 3), "bias": (30,), "scale": ()}


def folder(parent, name):
    (parent / name).mkdir()
    return parent / name


def models(seed=0):
    pairs = {n: vectors(seed + i, 2, *s) for i, (n, s) in enumerate(SHAPES.items())}
    return [{n: pair[k] for n, pair in pairs.items()} for k in (0, 1)]


def by_torch(a, b, mode):
    """Cosine of the columns and their mean with the cosine of the whole, as the extension has it."""
    a, b = (torch.tensor(np.atleast_1d(x)) for x in (a, b))
    if mode == "A":
        a, b = normalize(a, dim=0), normalize(b, dim=0)
    columns = cosine_similarity(a, b, dim=0)
    whole = torch.dot(a.flatten(), b.flatten()) / (a.norm() * b.norm())
    mean = (columns + whole) / 2
    return (columns if mode == "A" else mean).numpy(), mean.numpy()


@pytest.mark.parametrize("mode", ["A", "B"])
@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_equals_the_formula_over_the_whole_model(tmp_path, mode, alpha):
    a, b = models()
    found = {n: by_torch(a[n], b[n], mode) for n in SHAPES}
    counted = np.concatenate([columns.ravel() for columns, _ in found.values()])
    counted = counted[counted >= np.percentile(counted, 1, method="midpoint")]
    counted = counted[counted <= np.percentile(counted, 99, method="midpoint")]

    result = run(tmp_path, "cosine_add", a, b, mode=mode, alpha=alpha)

    for name, shape in SHAPES.items():
        share = (found[name][1] - counted.min()) / (counted.max() - counted.min())
        share = np.clip(share - alpha, 0, 1)
        expected = b[name] * (1 - share) + a[name] * share
        assert np.allclose(small.array_of(result, name), expected.reshape(shape))


def test_a_change_in_one_tensor_changes_the_others(tmp_path):
    a, b = models()
    other = {**b, "big": -b["big"]}
    (tmp_path / "other").mkdir()

    one, two = run(tmp_path, "cosine_add", a, b), run(tmp_path / "other", "cosine_add", a, other)

    assert not np.array_equal(small.array_of(one, "conv"), small.array_of(two, "conv"))


def test_equal_models_give_themselves(tmp_path):
    a, _ = models()

    result = run(tmp_path, "cosine_add", a, a, alpha=0.25)

    for name in SHAPES:
        assert np.allclose(small.array_of(result, name), a[name], rtol=1e-14)


def test_the_vae_stays_the_first_ones(tmp_path):
    a, b = ({"w": v, "first_stage_model.w": v[0]} for v in vectors(1, 2, 9, 7))

    result = run(tmp_path, "cosine_add", a, b)

    assert np.array_equal(small.array_of(result, "first_stage_model.w"), a["first_stage_model.w"])
    assert result.notes == (
        "part of the VAE, taken from the first input as it is (first_stage_model.w)",
    )


def test_empty_columns_count_as_unlike_and_nan_shows_where_it_is(tmp_path):
    a, b = models()
    a["conv"][:, 0, 0, 0] = 0
    a["big"][3, 7] = np.nan

    result = run(tmp_path, "cosine_add", a, b)

    assert np.isfinite(small.array_of(result, "conv")).all()
    assert np.isfinite(small.array_of(result, "bias")).all()


def test_by_block_looks_at_all_that_is_merged_and_at_nothing_else(tmp_path):
    a, b = models()
    third = {"bias": a["bias"] + 1}
    kept = [{"names": ["bias"], "keep": 2}]

    made = run(tmp_path, "by_block_survey", a, b, third, rules=kept, merged=2)

    rest = [{n: v for n, v in m.items() if n != "bias"} for m in (a, b)]
    alone = run(folder(tmp_path, "rest"), "cosine_add", *rest)
    assert np.array_equal(small.array_of(made, "bias"), third["bias"])
    for name in rest[0]:
        assert made.read(name) == alone.read(name)


def test_by_block_each_alpha_has_the_similarities_of_the_whole_model(tmp_path, monkeypatch):
    a, b = models()
    surveys = []
    real = OPS["cosine_add"].survey
    monkeypatch.setattr(
        type(OPS["cosine_add"]), "survey", lambda _, *given: surveys.append(1) or real(*given)
    )

    rules = [{"names": ["big"], "set": {"alpha": 0.5}}, {"names": ["conv"], "set": {"mode": "B"}}]
    made = run(tmp_path, "by_block_survey", a, b, rules=rules, settings={"alpha": 0.1})

    for name in SHAPES:
        found = bytes(made.read(name))
        alpha, mode = (0.5 if name == "big" else 0.1), ("B" if name == "conv" else "A")
        alone = run(folder(tmp_path, name), "cosine_add", a, b, alpha=alpha, mode=mode)
        assert found == bytes(alone.read(name))
    assert len(surveys) == 2 + len(SHAPES)  # by block: one for each mode


@pytest.mark.parametrize(
    ("op", "method", "text"),
    [
        ("by_block", "cosine_add", "looks at the whole model .* is by_block_survey"),
        ("by_block_survey", "slerp", "needs no survey; the operation for it is by_block"),
        ("by_block_survey", "by_block", "cannot be by_block itself"),
    ],
)
def test_the_wrong_one_of_the_two_names_the_other(tmp_path, op, method, text):
    with pytest.raises(UsageError, match=text):
        run(tmp_path, op, *models(), method=method)


@pytest.mark.parametrize("by_column", [False, True])
def test_similarities_of_parallel_and_perpendicular_columns(by_column):
    dots = np.array([[4.0, 1.0], [9.0, 1.0], [6.0, 0.0]])  # A.A, B.B, A.B of two columns

    columns, mean = similarities(dots, by_column=by_column)

    whole = 0.5 if by_column else 6 / np.sqrt(5 * 10)
    assert columns.tolist() == [1, 0]
    assert np.allclose(mean, [(1 + whole) / 2, whole / 2])
