"""Methods on changes: the same bits however they are computed, odd tensors, and what is refused."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fixtures import small
from memcard.errors import MismatchError, UsageError
from memcard.formats import open_file
from memcard.formats.safetensors import PLUGIN as SAFETENSORS
from memcard.maths import deltas, rounding, select
from memcard.ops import OPS
from memcard.recipes.bake import bake
from memcard.recipes.execute import evaluate
from memcard.recipes.nodes import Apply, Params, Source

METHODS = {
    "task_arithmetic": {},
    "ties": {"density": 0.3},
    "dare_linear": {"seed": 5},
    "dare_ties": {"seed": 5},
    "della": {"seed": 5},
    "breadcrumbs": {"density": 0.6, "gamma": 0.1},
    "sce": {"select_topk": 0.4},
    "model_stock": {"clamp": True},
    "add_difference": {},
}
MANY = [*METHODS.items(), ("model_stock", {"filter_wise": True}), ("della", {"elect": False})]


def resolve(source):
    return open_file(source.ref)


def recipe(folder, op, inputs, **params):
    paths = [small.save(folder / f"{i}.safetensors", a) for i, a in enumerate(inputs)]
    return Apply(op, tuple(Source(str(p)) for p in paths), Params(params))


def run(folder, op, inputs, **params):
    result = evaluate(recipe(folder, op, inputs, **params), resolve, OPS)
    found = {name: small.array_of(result, name) for name in result.specs}
    result.close()
    return found


def models(size=50_000):
    return [small.weights(i, size=size) for i in range(3)]


@pytest.mark.parametrize(("op", "params"), MANY, ids=range(len(MANY)))
def test_threads_chunks_and_compiled_loops_never_change_a_bit(tmp_path, monkeypatch, op, params):
    node = recipe(tmp_path, op, models(150_000), **params)
    files = []
    for threads, chunk, fast in [(1, 4 << 20, True), (2, 4096, False), (4, 10_001, True), (3, 777, False)]:  # fmt: skip
        monkeypatch.setattr(rounding, "_kernels", rounding._Kernels())
        monkeypatch.setattr(rounding, "_WORTH", 0 if fast else 1 << 62)
        monkeypatch.setattr(deltas, "RUN", 1 << 20 if fast else 1 << 15)
        monkeypatch.setattr(select, "KEPT", 1 << 20 if fast else 100)
        out = tmp_path / f"{threads}-{chunk}.safetensors"
        bake(node, resolve, OPS, SAFETENSORS.create(out), threads=threads, chunk=chunk)
        files.append(out.read_bytes())

    assert files.count(files[0]) == 4


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(data=st.data())
@pytest.mark.parametrize("op", METHODS)
def test_odd_shapes_scalars_nothing_and_mixed_dtypes(tmp_path, op, data):
    shape = data.draw(st.lists(st.integers(0, 4), max_size=4).map(tuple))
    dtypes = data.draw(st.lists(st.sampled_from(["F16", "BF16", "F32", "F8_E4M3"]), min_size=3, max_size=3))  # fmt: skip
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    inputs = [{"w": np.asarray(rng.standard_normal(shape)).astype(small.NUMPY[d])} for d in dtypes]

    found = run(tmp_path, op, inputs, **METHODS[op])["w"]

    assert found.shape == shape
    assert np.isfinite(found.astype("f8")).all()
    base = inputs[1 if op == "add_difference" else 0]["w"].astype("f8")
    reach = sum(np.abs(i["w"].astype("f8") - base) for i in inputs) * (20 if op != "sce" else 2)
    assert np.all(np.abs(found.astype("f8") - base) <= reach + 0.1)


@pytest.mark.parametrize("op", METHODS)
def test_what_does_not_fit_is_refused_before_anything_is_computed(tmp_path, op):
    inputs = models(100)
    inputs[1]["b.weight"] = inputs[1]["b.weight"][:, :, :1]
    inputs[2]["extra"] = inputs[2].pop("scale")

    with pytest.raises(MismatchError) as caught:
        run(tmp_path, op, inputs)

    text = str(caught.value)
    assert "'b.weight': [7, 11, 3, 3] in input 1, [7, 11, 1, 3] in input 2" in text
    assert "'scale': in input 1, not in input 3" in text
    assert "Input 1 is the base." in text


@pytest.mark.parametrize("op", METHODS)
def test_what_is_no_weight_is_taken_as_it_is(tmp_path, op):
    one = {"w": np.ones(4, "f2"), "step": np.array(7), "text.position_ids": np.arange(5.0)}
    inputs = [one, one, {**one, "step": np.array(9), "text.position_ids": np.zeros(5)}]

    found = run(tmp_path, op, inputs)

    assert found["step"] == 7
    assert np.array_equal(found["text.position_ids"], np.arange(5.0))


@pytest.mark.parametrize("op", METHODS)
def test_every_method_takes_the_base_first_and_says_where_it_comes_from(op):
    assert OPS[op].takes_base is True
    assert OPS[op].source
    assert {"lambda", "dtype"} <= set(OPS[op].params)
    assert all(p.help for p in OPS[op].params.values())


@pytest.mark.parametrize("op", [op for op in METHODS if "weights" in OPS[op].params])
def test_a_fine_tune_of_weight_zero_is_left_out_infinities_and_all(tmp_path, op):
    base, one, two = models(500)
    two["a.weight"][:] = np.inf

    found = run(tmp_path, op, [base, one, two], weights=[1, 0], **METHODS[op])
    alone = run(tmp_path, op, [base, one], weights=[1], **METHODS[op])

    assert all(np.array_equal(found[n], alone[n]) for n in base)


@pytest.mark.parametrize("op", METHODS)
def test_nothing_of_the_change_is_the_base_bit_for_bit(tmp_path, op):
    inputs = models(500)

    found = run(tmp_path, op, inputs, **{"lambda": 0})

    kept = inputs[1 if op == "add_difference" else 0]
    assert {n: a.tobytes() for n, a in found.items()} == {n: a.tobytes() for n, a in kept.items()}


@pytest.mark.parametrize("op", METHODS)
def test_what_is_not_finite_is_counted(tmp_path, op):
    inputs = models(500)
    inputs[2]["a.weight"][3] = np.nan

    result = evaluate(recipe(tmp_path, op, inputs, **{**METHODS[op], **({"density": 1.0} if "density" in METHODS[op] else {})}), resolve, OPS)  # fmt: skip
    values = small.array_of(result, "a.weight")

    bad = int(np.count_nonzero(~np.isfinite(values)))
    assert result.nonfinite.get("a.weight", 0) == bad
    assert bad or op in ("dare_linear", "dare_ties", "della")
    result.close()


@pytest.mark.parametrize(
    ("op", "params", "says"),
    [
        ("ties", {"weights": [1]}, "1 given for 2 fine-tunes"),
        ("task_arithmetic", {"weights": [1, -1], "normalize": True}, "normalize to false"),
        ("ties", {"density": 1.5}, "from 0 to 1"),
        ("della", {"density": 0.9, "epsilon": 0.2}, "from 0.7 to 1.1"),
        ("breadcrumbs", {"weights": [1, -1], "normalize": True}, "normalize to false"),
        ("sce", {"weights": [1, 1]}, "no parameter 'weights'"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(tmp_path, op, params, says):
    with pytest.raises(UsageError, match=says):
        run(tmp_path, op, models(10), **params)


def test_too_few_inputs_are_refused(tmp_path):
    with pytest.raises(UsageError, match="3 or more"):
        run(tmp_path, "model_stock", models(10)[:2])
    with pytest.raises(UsageError, match="takes 3 inputs, 2 given"):
        run(tmp_path, "add_difference", models(10)[:2])
