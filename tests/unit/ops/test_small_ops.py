"""identity, cast, overlay, pick_ema."""

import numpy as np
import pytest

from fixtures import small
from memcard.errors import MismatchError
from memcard.formats import open_file
from memcard.ops import OPS
from memcard.recipes.execute import evaluate
from memcard.recipes.nodes import Apply, Params, Source


@pytest.fixture
def run(tmp_path):
    def inner(op, *inputs, **params):
        paths = [small.save(tmp_path / f"{i}.safetensors", a) for i, a in enumerate(inputs)]
        node = Apply(op, tuple(Source(str(p)) for p in paths), Params(params))
        return evaluate(node, lambda s: open_file(s.ref), OPS)

    return inner


def contents(result):
    return {name: bytes(result.read(name)) for name in result.specs}


def bytes_of(arrays):
    return {name: array.tobytes() for name, array in arrays.items()}


def test_identity_changes_nothing(run):
    arrays = {**small.weights(1), "n": np.arange(5)}

    assert contents(run("identity", arrays)) == bytes_of(arrays)


@pytest.mark.parametrize("target", ["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"])
@pytest.mark.parametrize("origin", ["F32", "F16", "BF16"])
def test_cast_rounds_to_the_dtype_and_leaves_integers(run, origin, target):
    arrays = {**small.weights(1, origin), "n": np.arange(5)}

    result = run("cast", arrays, dtype=target)

    expected = arrays["a.weight"].astype(small.NUMPY[target])
    assert result.read("a.weight") == expected.tobytes()
    assert str(result.specs["a.weight"].dtype) == target
    assert result.read("n") == arrays["n"].tobytes()


def test_cast_from_float64_rounds_once(run):
    # 1 + 2^-11 + 2^-40 lies just above the middle of two halves; float32 would lose the 2^-40.
    result = run("cast", {"w": np.array([1 + 2**-11 + 2**-40])}, dtype="F16")

    assert small.array_of(result, "w")[0] == 1 + 2**-10


def test_cast_there_and_back_gives_the_same_bits_when_the_way_is_wider(run, tmp_path):
    arrays = small.weights(1, "F16")
    path = small.save(tmp_path / "x.safetensors", arrays)
    there = Apply("cast", (Source(str(path)),), Params({"dtype": "F32"}))
    back = Apply("cast", (there,), Params({"dtype": "F16"}))

    assert contents(evaluate(back, lambda s: open_file(s.ref), OPS)) == bytes_of(arrays)


def test_overlay_replaces_what_the_delta_has_and_keeps_the_order(run):
    base, new = small.weights(1), small.weights(2)
    delta = {"scale": new["scale"], "b.weight": new["b.weight"]}

    result = run("overlay", base, delta)

    assert list(result.specs) == list(base)
    assert contents(result) == bytes_of({**base, **delta})


def test_overlay_refuses_tensors_the_base_lacks_and_other_shapes(run):
    delta = {"new": np.zeros(3, "f2"), "b.bias": np.zeros(8, "f2")}

    with pytest.raises(MismatchError) as caught:
        run("overlay", small.weights(1), delta)

    assert "'new': not in the base" in str(caught.value)
    assert "'b.bias': F16 [7] in the base, F16 [8] in the delta" in str(caught.value)


def training_file():
    rng = np.random.default_rng(0)
    raw = {
        "model.diffusion_model.input_blocks.0.0.weight": rng.standard_normal((4, 3)).astype("f4"),
        "model.diffusion_model.out.2.bias": rng.standard_normal(4).astype("f4"),
        "first_stage_model.decoder.conv_in.bias": rng.standard_normal(4).astype("f4"),
    }
    average = {
        "model_ema.decay": np.array(0.9999, "f4"),
        "model_ema.num_updates": np.array(1000),
        "model_ema.diffusion_modelinput_blocks00weight": rng.standard_normal((4, 3)).astype("f4"),
        "model_ema.diffusion_modelout2bias": rng.standard_normal(4).astype("f4"),
    }
    return raw, average


def test_pick_ema_puts_the_average_in_place_of_the_raw_weights(run):
    raw, average = training_file()

    result = run("pick_ema", {**raw, **average}, which="ema")

    names = list(raw)
    assert contents(result) == {
        names[0]: average["model_ema.diffusion_modelinput_blocks00weight"].tobytes(),
        names[1]: average["model_ema.diffusion_modelout2bias"].tobytes(),
        names[2]: raw[names[2]].tobytes(),
    }
    assert result.notes == ()


def test_pick_raw_drops_the_average(run):
    raw, average = training_file()

    assert contents(run("pick_ema", {**raw, **average}, which="raw")) == bytes_of(raw)


def test_pick_ema_refuses_a_file_without_an_average(run):
    with pytest.raises(MismatchError, match="model_ema"):
        run("pick_ema", training_file()[0], which="ema")


def test_pick_ema_tells_of_weights_without_average(run):
    raw, average = training_file()
    del average["model_ema.diffusion_modelout2bias"]

    result = run("pick_ema", {**raw, **average}, which="ema")

    assert "has no EMA" in result.notes[0]
    assert "out.2.bias" in result.notes[0]


def test_pick_ema_refuses_averages_that_fit_nothing(run):
    raw, average = training_file()
    average["model_ema.diffusion_modelout2bias"] = np.zeros(5, "f4")
    average["model_ema.diffusion_modelother"] = np.zeros(5, "f4")

    with pytest.raises(MismatchError, match=r"modelother'[\s\S]*F32 \[4\], its EMA F32 \[5\]"):
        run("pick_ema", {**raw, **average}, which="ema")
