"""The plain merge: its arithmetic, its refusals, and what it leaves alone."""

import numpy as np
import pytest
import torch

from fixtures import small
from memcard.errors import MismatchError, UsageError
from memcard.formats import open_file
from memcard.ops import OPS
from memcard.recipes.execute import evaluate
from memcard.recipes.nodes import Apply, Params, Source


@pytest.fixture
def merge(tmp_path):
    def run(*inputs, **params):
        paths = [small.save(tmp_path / f"{i}.safetensors", a) for i, a in enumerate(inputs)]
        node = Apply("weighted_average", tuple(Source(str(p)) for p in paths), Params(params))
        return evaluate(node, lambda s: open_file(s.ref), OPS)

    return run


def bits(array):
    return array.view(f"u{array.itemsize}")


@pytest.mark.parametrize("dtype", ["F16", "F32", "F64"])
def test_every_bit_equals_float64_arithmetic_rounded_once(merge, dtype):
    a, b, c = (small.weights(i, dtype) for i in range(3))

    result = merge(a, b, c, weights=[2, 1, 1])

    for name in a:
        exact = 0.5 * a[name].astype("f8") + 0.25 * b[name].astype("f8")
        exact = exact + 0.25 * c[name].astype("f8")
        assert np.array_equal(bits(small.array_of(result, name)), bits(exact.astype(a[name].dtype)))


def test_agrees_with_mergekits_linear_formula(merge):
    # sum(w * t) / sum(w) in float32, as mergekit.merge_methods.linear computes it.
    a, b = small.weights(1, "F32"), small.weights(2, "F32")
    stack = torch.stack([torch.tensor(a["a.weight"]), torch.tensor(b["a.weight"])])
    w = torch.tensor([[0.7], [0.4]])

    result = merge(a, b, weights=[0.7, 0.4])

    theirs = ((stack * w).sum(0) / w.sum()).numpy()
    assert np.abs(small.array_of(result, "a.weight") - theirs).max() <= 1e-6 * np.abs(theirs).max()


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "F8_E4M3"])
@pytest.mark.parametrize("weights", [[1, 0], [0, 3.5]])
def test_weight_one_gives_the_input_bit_for_bit(merge, dtype, weights):
    inputs = [small.weights(1, dtype), small.weights(2, dtype)]
    size = inputs[0]["a.weight"].itemsize
    for arrays in inputs:  # -0, a NaN with a payload and an infinity are bits like any others
        arrays["a.weight"].view(f"u{size}")[:3] = [
            1 << (8 * size - 1),
            (1 << (8 * size - 1)) - 2,
            7,
        ]

    result = merge(*inputs, weights=weights)

    chosen = inputs[0 if weights[0] else 1]
    assert {n: bytes(result.read(n)) for n in chosen} == {n: a.tobytes() for n, a in chosen.items()}
    assert result.computed == 0


def test_a_weight_of_zero_keeps_an_infinity_out(merge):
    a, b, c = (small.weights(i) for i in range(3))
    b["a.weight"][:] = np.inf

    result = merge(a, b, c, weights=[0.5, 0, 0.5])

    assert np.isfinite(small.array_of(result, "a.weight")).all()


def test_tensors_without_values_stay_so(merge, tmp_path):
    arrays = {"none": np.zeros((0, 3), "f2"), "one": np.ones((), "f2")}

    result = merge(arrays, arrays, arrays)

    assert result.read("none") == b""
    assert small.array_of(result, "one") == 1
    assert result.specs["none"].shape == (0, 3)


def test_no_weights_means_equal_shares(merge):
    a, b = small.weights(1, "F32"), small.weights(2, "F32")

    result = merge(a, b)

    expected = (a["b.bias"].astype("f8") * 0.5 + b["b.bias"].astype("f8") * 0.5).astype("f4")
    assert np.array_equal(small.array_of(result, "b.bias"), expected)


def test_normalize_false_uses_the_weights_as_they_are(merge):
    a, b = small.weights(1, "F32"), small.weights(2, "F32")

    result = merge(a, b, weights=[1, -1], normalize=False)

    expected = (a["b.bias"].astype("f8") - b["b.bias"].astype("f8")).astype("f4")
    assert np.array_equal(small.array_of(result, "b.bias"), expected)


@pytest.mark.parametrize(
    ("dtypes", "widest"),
    [
        (("F16", "F16"), "F16"),
        (("F16", "BF16"), "F32"),
        (("F16", "F32"), "F32"),
        (("F8_E4M3", "F8_E5M2"), "F16"),
        (("BF16", "F64"), "F64"),
    ],
)
def test_mixed_dtypes_give_the_narrowest_that_holds_both(merge, dtypes, widest):
    result = merge(*(small.weights(i, d) for i, d in enumerate(dtypes)))

    assert {str(spec.dtype) for spec in result.specs.values()} == {widest}


def test_the_dtype_of_the_result_can_be_chosen(merge):
    a, b = small.weights(1, "F32"), small.weights(2, "F32")

    result = merge(a, b, dtype="F16")

    expected = (a["a.weight"].astype("f8") * 0.5 + b["a.weight"].astype("f8") * 0.5).astype("f2")
    assert np.array_equal(small.array_of(result, "a.weight"), expected)


def test_counters_and_position_ids_are_taken_from_the_first_input(merge):
    ids = np.arange(77, dtype=np.float32)
    a = {"w": np.ones(3, "f4"), "step": np.array(10), "text.position_ids": ids}
    b = {"w": np.zeros(3, "f4"), "step": np.array(20), "text.position_ids": ids * 0.98}

    result = merge(a, b)

    assert small.array_of(result, "step") == 10
    assert np.array_equal(small.array_of(result, "text.position_ids"), ids)
    assert "(step, text.position_ids)" in result.notes[0]


def test_all_that_does_not_fit_is_told_at_once(merge):
    a, b = small.weights(1), small.weights(2)
    b["b.weight"] = b["b.weight"][:, :, :1]
    b["extra"] = b.pop("scale")

    with pytest.raises(MismatchError) as caught:
        merge(a, b)

    text = str(caught.value)
    assert "'b.weight': [7, 11, 3, 3] in input 1, [7, 11, 1, 3] in input 2" in text
    assert "'scale': in input 1, not in input 2" in text
    assert "'extra': in input 2, not in input 1" in text


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"weights": [1]}, "1 given for 2 inputs"),
        ({"weights": [0, 0]}, "all are zero"),
        ({"weights": [1, -1]}, "normalize to false"),
        ({"weights": [1, None]}, "for 2 inputs"),
    ],
    ids=["count", "zero", "sum", "null"],
)
def test_weights_that_make_no_sense_are_refused(merge, params, says):
    with pytest.raises(UsageError, match=says):
        merge(small.weights(1), small.weights(2), **params)
