"""What all methods on namesakes promise: plans, refusals, dtypes, the same bits every time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures import small
from fixtures.methods import run
from memcard.errors import MismatchError
from memcard.formats import open_file
from memcard.formats.safetensors import PLUGIN as SAFETENSORS
from memcard.ops import OPS
from memcard.recipes.bake import bake
from memcard.recipes.nodes import Apply, Params, Source

# method: number of inputs, parameters that use most of it
METHODS = {
    "slerp": (2, {"t": 0.3}),
    "nuslerp": (3, {"task_vectors": True, "weights": [0.3, 0.7]}),
    "multislerp": (3, {"weights": [0.5, 0.3, 0.2]}),
    "karcher": (3, {}),
    "arcee_fusion": (2, {}),
    "nearswap": (2, {"t": 0.01}),
    "ram": (3, {"r": 0.1, "epsilon": 0.05}),
    "train_difference": (3, {}),
    "geometric": (2, {"alpha": 0.3}),
    "top_k_sum": (2, {"width": 0.4}),
    "clamp": (4, {"stiffness": 0.2}),
    "rotate": (2, {"alpha": 0.2}),
    "cosine_add": (2, {"alpha": 0.1}),
    "fisher": (4, {}),
}
ROWS = {
    "nuslerp, rows": ("nuslerp", 2, {"flatten": False}),
    "nuslerp, columns": ("nuslerp", 2, {"flatten": False, "row_wise": True}),
}
ALL = {**{name: (name, *rest) for name, rest in METHODS.items()}, **ROWS}
every_method = pytest.mark.parametrize("case", ALL.values(), ids=ALL)


def large(seed):
    """Tensors longer than a block and not a multiple of anything."""
    rng = np.random.default_rng(seed)
    shapes = {"w": (601, 2203), "conv": (64, 40, 3, 3), "bias": (1201,), "scale": ()}
    return {n: (rng.standard_normal(s, np.float32) * 0.05).astype("f2") for n, s in shapes.items()}


# An SVD of the large tensor takes seconds, and no chunk is smaller than a tensor here.
SMALL = {"rotate": lambda seed: small.weights(seed, size=5000)}


@pytest.fixture(scope="module")
def large_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    return [small.save(folder / f"{i}.safetensors", large(i)) for i in range(4)]


@pytest.fixture
def paths(case, large_files, tmp_path):
    if case[0] not in SMALL:
        return large_files
    return [small.save(tmp_path / f"in{i}.safetensors", SMALL[case[0]](i)) for i in range(4)]


@every_method
def test_the_same_bits_for_any_threads_and_chunks(case, paths, tmp_path):
    method, count, params = case
    node = Apply(method, tuple(Source(str(p)) for p in paths[:count]), Params(params))

    files = []
    for threads, chunk in ((1, 1 << 30), (2, 100_000), (4, 4099)):
        out = tmp_path / f"{threads}.safetensors"
        bake(node, lambda s: open_file(s.ref), OPS, SAFETENSORS.create(out),
             threads=threads, chunk=chunk)  # fmt: skip
        files.append(out.read_bytes())

    assert files[0] == files[1] == files[2]


SHAPES = st.lists(st.integers(0, 6), max_size=4).map(tuple)
DTYPES = st.sampled_from(["F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E5M2"])


@every_method
@settings(max_examples=15, deadline=None)
@given(shape=SHAPES, dtypes=st.lists(DTYPES, min_size=4, max_size=4), seed=st.integers(0, 99))
def test_odd_shapes_and_mixed_dtypes_give_finite_tensors(
    case, shape, dtypes, seed, tmp_path_factory
):
    method, count, params = case
    rng = np.random.default_rng(seed)
    inputs = [
        {"w": np.asarray(rng.standard_normal(shape)).astype(small.NUMPY[d]), "n": np.array(3)}
        for d in dtypes[:count]
    ]

    result = run(tmp_path_factory.mktemp("odd"), method, *inputs, **params)

    made = small.array_of(result, "w").astype("f8")
    assert made.shape == shape
    assert np.isfinite(made).all()
    assert small.array_of(result, "n") == 3
    result.close()


@every_method
def test_all_that_does_not_fit_is_told_before_anything_is_computed(case, tmp_path):
    method, count, params = case
    inputs = [small.weights(i) for i in range(count)]
    inputs[1]["b.weight"] = inputs[1]["b.weight"][:, :, :1]
    inputs[1]["extra"] = inputs[1].pop("scale")

    with pytest.raises(MismatchError) as caught:
        run(tmp_path, method, *inputs, **params)

    text = str(caught.value)
    assert "'b.weight': [7, 11, 3, 3] in input 1, [7, 11, 1, 3] in input 2" in text
    assert "'scale': in input 1, not in input 2" in text
    assert "'extra': in input 2, not in input 1" in text


@every_method
def test_the_dtype_of_the_result_can_be_chosen(case, tmp_path):
    method, count, params = case
    inputs = [small.weights(i, size=500) for i in range(count)]
    (tmp_path / "wide").mkdir()

    narrow = run(tmp_path, method, *inputs, **params, dtype="BF16")
    wide = run(tmp_path / "wide", method, *inputs, **params, dtype="F64")

    for name in inputs[0]:
        exact = small.array_of(wide, name)
        # F64 to BF16 by way of F32 would round twice
        found = small.array_of(narrow, name).astype("f8")
        assert np.all(np.abs(found - exact) <= np.abs(exact) * 2.0**-8)


def test_methods_with_a_base_say_so():
    with_base = {name for name in METHODS if OPS[name].takes_base}

    assert with_base == {"arcee_fusion", "nearswap", "ram", "train_difference"}
