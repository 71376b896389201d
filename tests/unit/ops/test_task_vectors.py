"""Methods on changes from a base: each against its formula, and against mergekit, PEFT and sd-mecha."""

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from peft.utils import merge_utils
from sd_mecha.extensions.builtin.merge_methods.ties import ties_sum

from fixtures import small
from memcard.formats import open_file
from memcard.maths.random import key, uniform
from memcard.ops import OPS
from memcard.recipes.execute import evaluate
from memcard.recipes.nodes import Apply, Params, Source

GOLDEN = json.loads(
    (Path(__file__).parents[2] / "golden" / "mergekit_task_vectors.json").read_text("utf-8")
)


@pytest.fixture
def merge(tmp_path):
    def run(op, inputs, **params):
        paths = [small.save(tmp_path / f"{i}.safetensors", a) for i, a in enumerate(inputs)]
        node = Apply(op, tuple(Source(str(p)) for p in paths), Params(params))
        result = evaluate(node, lambda s: open_file(s.ref), OPS)
        found = {name: small.array_of(result, name) for name in result.specs}
        result.close()
        return found

    return run


# The formulas again, on whole tensors in float64, as slowly and plainly as can be.


def ranked(size):
    """Rank of every value, 0 for the largest; of equal ones the first."""
    order = np.lexsort((np.arange(size.size), -size.reshape(-1)))
    ranks = np.empty(size.size, int)
    ranks[order] = np.arange(size.size)
    return ranks.reshape(size.shape)


def agreed(terms, weights, votes, mean):
    sign = np.where(sum(votes) >= 0, 1, -1)
    agree = [np.sign(t) == sign for t in terms]
    change = sum(w * t * a for w, t, a in zip(weights, terms, agree, strict=True))
    share = sum(w * a for w, a in zip(weights, agree, strict=True))
    return change / np.where(share == 0, 1, share) if mean else change


def voted(terms, weights, mean):
    return agreed(terms, weights, [w * t for w, t in zip(weights, terms, strict=True)], mean)


def added(terms, weights, mean=False):
    change = sum(w * t for w, t in zip(weights, terms, strict=True))
    return change / sum(weights) if mean else change


def draws(name, deltas, seed):
    return [
        uniform(key(seed, name, i), 0, d.size).reshape(d.shape).copy()
        for i, d in enumerate(deltas, 1)
    ]


def share_of(density, size):
    return max(1, int(density * size))


def task_arithmetic(name, deltas, weights):
    return added(deltas, weights)


def ties(name, deltas, weights, density=0.2):
    kept = [np.where(ranked(abs(d)) < share_of(density, d.size), d, 0) for d in deltas]
    return voted(kept, weights, mean=True)


def dropped(name, deltas, density, seed):
    return [
        np.where(u < density, d / density, 0)
        for u, d in zip(draws(name, deltas, seed), deltas, strict=True)
    ]


def dare_linear(name, deltas, weights, density=0.5, seed=0):
    return added(dropped(name, deltas, density, seed), weights)


def dare_ties(name, deltas, weights, density=0.5, seed=0):
    return voted(dropped(name, deltas, density, seed), weights, mean=False)


def della(name, deltas, weights, density=0.5, epsilon=0.15, seed=0):
    terms = []
    for u, d in zip(draws(name, deltas, seed), deltas, strict=True):
        rows = d.reshape(len(d) if d.ndim > 1 else 1, -1)
        rank = np.stack([len(row) - 1 - ranked(abs(row)) for row in rows]).reshape(d.shape)
        keep = density - epsilon + 2 * epsilon * rank / max(1, rows.shape[1] - 1)
        terms.append(np.where(u < keep, d / keep, 0))
    return voted(terms, weights, mean=True)


def breadcrumbs(name, deltas, weights, density=0.9, gamma=0.01):
    terms = []
    for d in deltas:
        count, rank = share_of(density, d.size), ranked(abs(d))
        top = min(int(gamma * d.size), d.size - count)
        terms.append(np.where((rank >= top) & (rank < top + count), d, 0))
    return added(terms, weights)


def sce(name, deltas, weights, select_topk=1.0):
    if select_topk < 1:
        variance = np.var(deltas, axis=0)
        keep = ranked(variance) < int(select_topk * np.count_nonzero(variance))
        deltas = [np.where(keep, d, 0) for d in deltas]
    squares = [(d * d).sum() for d in deltas]
    weights = [s / sum(squares) if sum(squares) else 1 / len(deltas) for s in squares]
    return agreed(deltas, weights, deltas, mean=True)


def model_stock(name, deltas, weights, filter_wise=False):
    rows = [d.reshape(len(d) if filter_wise and d.ndim > 1 else 1, -1) for d in deltas]
    norms = [np.sqrt((r * r).sum(1)) for r in rows]
    pairs = list(combinations(range(len(rows)), 2))
    cosines = [
        (rows[i] * rows[j]).sum(1) / np.maximum(norms[i] * norms[j], 1e-300) for i, j in pairs
    ]
    cos, count = sum(cosines) / len(pairs), len(rows)
    t = count * cos / (1 + (count - 1) * cos)
    return (t[:, None] * sum(rows) / count).reshape(deltas[0].shape)


FORMULAS = {f.__name__: f for f in (
    task_arithmetic, ties, dare_linear, dare_ties, della, breadcrumbs, sce, model_stock
)}  # fmt: skip
CASES = [
    ("task_arithmetic", {}),
    ("ties", {}),
    ("ties", {"density": 0.7}),
    ("ties", {"density": 1.0}),
    ("dare_linear", {"density": 0.3, "seed": 4}),
    ("dare_ties", {"density": 0.7, "seed": -1}),
    ("della", {}),
    ("della", {"density": 0.3, "epsilon": 0.25, "seed": 9}),
    ("breadcrumbs", {}),
    ("breadcrumbs", {"density": 0.3, "gamma": 0.2}),
    ("breadcrumbs", {"density": 0.9, "gamma": 0.5}),
    ("sce", {}),
    ("sce", {"select_topk": 0.3}),
    ("model_stock", {}),
    ("model_stock", {"filter_wise": True}),
]
IDS = [f"{op}-{'-'.join(map(str, params.values()))}" for op, params in CASES]


def models(dtype, count=3, size=40_000):
    """A base and fine-tunes of it, near as real ones are."""
    base = small.weights(0, dtype, size)
    changes = [small.weights(i, "F32", size) for i in range(1, count + 1)]
    return [base] + [
        {n: (a.astype("f4") + c[n] * 0.1).astype(a.dtype) for n, a in base.items()} for c in changes
    ]


def expected(op, inputs, name, weights, scale, params):
    base, *tuned = (i[name].astype("f8") for i in inputs)
    change = FORMULAS[op](name, [t - base for t in tuned], weights, **params)
    return base + scale * change


def close(found, exact, dtype):
    """Nearly all values are the exact one rounded; the others are its neighbours."""
    rounded = exact.astype(found.dtype)
    same = np.mean(found == rounded) if found.size else 1
    bits = {"F64": 50, "F32": 23, "F16": 10, "BF16": 7}[dtype]
    small_ = 0.1 if dtype == "F64" else 1e-4  # F64: the order of adding shows against the base
    off = np.abs(found.astype("f8") - exact)
    return (same > 0.999 or dtype == "F64") and np.all(off <= 2.0**-bits * (np.abs(exact) + small_))


@pytest.mark.parametrize("dtype", ["F16", "F32", "BF16", "F64"])
@pytest.mark.parametrize(("op", "params"), CASES, ids=IDS)
def test_every_method_equals_its_formula_in_float64(merge, op, params, dtype):
    inputs = models(dtype)
    weighted = "weights" in OPS[op].params
    weights, extra = (0.7, 1.2, 0.4), {"weights": [0.7, 1.2, 0.4]} if weighted else {}

    result = merge(op, inputs, **params, **extra, **{"lambda": 0.8})

    for name, found in result.items():
        exact = expected(op, inputs, name, weights, 0.8, params)
        assert close(found, exact, dtype), name


@pytest.mark.parametrize("number", range(len(GOLDEN["cases"])))
def test_agrees_with_mergekit(merge, number):
    case = GOLDEN["cases"][number]
    inputs = [{"w": np.array(a)} for a in (GOLDEN["base"], *GOLDEN["tuned"])]

    found = merge(case["op"], inputs, **case["params"])["w"]

    assert np.abs(found - np.array(case["merged"])).max() < 1e-6


def test_ties_agrees_with_peft(merge):
    inputs = models("F32")
    base, *tuned = (torch.tensor(i["a.weight"]) for i in inputs)

    found = merge("ties", inputs, density=0.35)["a.weight"]

    theirs = merge_utils.ties([t - base for t in tuned], torch.ones(3), 0.35)
    assert np.abs(found - (base + theirs).numpy()).max() < 1e-7


def test_ties_agrees_with_sd_mecha(merge):
    inputs = models("F32")
    base, *tuned = (torch.tensor(i["a.weight"]) for i in inputs)

    found = merge("ties", inputs, density=1.0)["a.weight"]

    theirs = ties_sum.__wrapped__(*(t - base for t in tuned), k=1.0, vote_sgn=True)
    assert np.abs(found - (base + theirs).numpy()).max() < 1e-7


def test_ties_keeps_exactly_as_many_as_asked_where_many_are_equal(merge):
    base = {"w": np.zeros(1000, "f4")}
    tuned = {"w": np.tile(np.float32([1, -1, 2, 0.5]), 250)}

    found = merge("ties", [base, tuned], density=0.3)["w"]

    assert np.array_equal(np.flatnonzero(found == 2), np.arange(2, 1000, 4))
    ones = np.flatnonzero(np.abs(found) == 1)
    assert np.array_equal(ones, np.flatnonzero(np.abs(tuned["w"]) == 1)[:50])
    assert np.count_nonzero(found) == 300


@pytest.mark.parametrize("dtype", ["F16", "F32"])
def test_add_difference_is_its_formula_rounded_once(merge, dtype):
    base, model, tuned = models(dtype, 2)

    result = merge("add_difference", [base, model, tuned], **{"lambda": 0.6})

    for name, found in result.items():
        c, a, b = (i[name].astype("f8") for i in (base, model, tuned))
        assert np.array_equal(found, (a + (b - c) * 0.6).astype(found.dtype))


def test_add_difference_of_nothing_is_the_model(merge):
    base, model, tuned = models("F16", 2)

    same = merge("add_difference", [base, model, base])
    none = merge("add_difference", [base, model, tuned], **{"lambda": 0})

    for name, values in model.items():
        assert np.array_equal(same[name], values)
        assert none[name].tobytes() == values.tobytes()


@pytest.mark.parametrize("op", ["task_arithmetic", "ties", "dare_linear", "dare_ties", "della", "breadcrumbs"])  # fmt: skip
def test_one_fine_tune_kept_whole_is_that_fine_tune(merge, op):
    base, tuned = models("F16", 1)
    whole = {} if op == "task_arithmetic" else {"density": 1.0}

    result = merge(op, [base, tuned], **whole)

    assert all(np.array_equal(result[n], a) for n, a in tuned.items())


def test_random_methods_keep_the_expected_change(merge):
    base, one, two = models("F64", 2)
    size = np.abs(one["a.weight"] - base["a.weight"]).mean()

    for op in ("dare_linear", "della"):
        params = {"elect": False, "normalize": False} if op == "della" else {}
        found = merge(op, [base, one, two], density=0.4, **params)["a.weight"]
        plain = merge("task_arithmetic", [base, one, two])["a.weight"]
        assert abs((found - plain).mean()) < 5 * 3 * size / found.size**0.5


def test_the_seed_decides_and_each_fine_tune_has_numbers_of_its_own(merge):
    base, tuned = models("F32", 1)

    first, again, other = (
        merge("dare_linear", [base, tuned], seed=s)["a.weight"] for s in (1, 1, 2)
    )
    twins = merge("dare_linear", [base, tuned, tuned], weights=[1, -1])["a.weight"]

    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(twins, base["a.weight"])


def test_model_stock_with_equal_fine_tunes_goes_all_the_way(merge):
    base, tuned = models("F64", 1)

    result = merge("model_stock", [base, tuned, tuned])
    unmoved = merge("model_stock", [base, base, base])

    for name, values in tuned.items():
        assert np.allclose(result[name], values, rtol=1e-12, atol=0)
        assert np.array_equal(unmoved[name], base[name])


def test_model_stock_goes_away_from_opposed_changes_unless_clamped(merge):
    base = {"w": np.zeros(2)}
    tuned = [{"w": np.array([1.0, 0.5])}, {"w": np.array([-0.5, 0.75])}]
    cos = (-0.5 + 0.375) / np.sqrt(1.25 * 0.8125)

    free = merge("model_stock", [base, *tuned])["w"]
    kept = merge("model_stock", [base, *tuned], clamp=True)["w"]

    assert np.allclose(free, 2 * cos / (1 + cos) * np.array([0.25, 0.625]), rtol=1e-14)
    assert kept.tolist() == [0, 0]
