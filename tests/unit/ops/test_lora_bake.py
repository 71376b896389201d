"""LoRA baking against PEFT, plain formulas, and every way of naming things."""

import json

import numpy as np
import pytest
import torch

from fixtures import sd15, small
from memcard.core.tensors import DTYPES, Spec
from memcard.errors import MismatchError, UsageError
from memcard.formats import open_file
from memcard.maths import low_rank
from memcard.ops import OPS
from memcard.ops._lora import factors
from memcard.ops._lora_names import aliases, find
from memcard.recipes.execute import evaluate
from memcard.recipes.nodes import Apply, Params, Source

RNG = np.random.default_rng(0)
LINEAR = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
OUTPUT = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0"
CONV = "down_blocks.0.resnets.0.conv1"


def normal(*shape, dtype="f4"):
    return (RNG.standard_normal(shape) * 0.1).astype(dtype)


def base(dtype="f4"):
    """A model in diffusers names without a known family: the names are the module paths."""
    return {
        f"{LINEAR}.weight": normal(12, 10, dtype=dtype),
        f"{OUTPUT}.weight": normal(10, 10, dtype=dtype),
        f"{CONV}.weight": normal(8, 6, 3, 3, dtype=dtype),
        f"{CONV}.bias": normal(8, dtype=dtype),
    }


@pytest.fixture
def bake(tmp_path):
    def run(model, *loras, **params):
        paths = [
            small.save(tmp_path / f"{i}.safetensors", a) for i, a in enumerate((model, *loras))
        ]
        node = Apply("lora_bake", tuple(Source(str(p)) for p in paths), Params(params))
        return evaluate(node, lambda s: open_file(s.ref), OPS)

    return run


def kohya(module, up, down, alpha=None, prefix="lora_unet_"):
    stem = prefix + module.replace(".", "_")
    found = {f"{stem}.lora_up.weight": up, f"{stem}.lora_down.weight": down}
    return found if alpha is None else found | {f"{stem}.alpha": np.array(alpha, "f4")}


def exact(weight, *changes):
    total = weight.astype("f8")
    for up, down, scale in changes:
        product = up.reshape(up.shape[0], -1).astype("f8") @ down.reshape(len(down), -1).astype(
            "f8"
        )
        total = total + scale * product.reshape(weight.shape)
    return total


def close(result, name, expected, tolerance=1e-6):
    got = small.array_of(result, name).astype("f8")
    return np.abs(got - expected).max() <= tolerance * np.abs(expected).max()


def test_linear_with_alpha_and_strength(bake):
    model, up, down = base(), normal(12, 4), normal(4, 10)

    result = bake(model, kohya(LINEAR, up, down, alpha=2.0), strengths=[0.8])

    expected = exact(model[f"{LINEAR}.weight"], (up, down, 0.8 * 2.0 / 4))
    assert close(result, f"{LINEAR}.weight", expected, 2e-7)


def test_without_alpha_it_is_the_rank(bake):
    model, up, down = base(), normal(12, 4), normal(4, 10)

    result = bake(model, kohya(LINEAR, up, down))

    expected = exact(model[f"{LINEAR}.weight"], (up, down, 1.0))
    assert close(result, f"{LINEAR}.weight", expected, 2e-7)


def test_alpha_from_elsewhere_counts_where_the_file_states_none(bake):
    model, up, down = base(), normal(12, 4), normal(4, 10)
    stated = kohya(OUTPUT, normal(10, 4), normal(4, 10), alpha=4.0)

    result = bake(model, kohya(LINEAR, up, down) | stated, alphas=[8.0])

    assert close(result, f"{LINEAR}.weight", exact(model[f"{LINEAR}.weight"], (up, down, 2.0)))
    changed = [*stated.values()][:2]
    assert close(result, f"{OUTPUT}.weight", exact(model[f"{OUTPUT}.weight"], (*changed, 1.0)))


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3)])
def test_convolution(bake, kernel):
    model = {f"{CONV}.weight": normal(8, 6, *kernel)}
    up, down = normal(8, 4, 1, 1), normal(4, 6, *kernel)

    result = bake(model, kohya(CONV, up, down, alpha=1.0))

    expected = torch.nn.functional.conv2d(
        torch.tensor(down).permute(1, 0, 2, 3), torch.tensor(up)
    ).permute(1, 0, 2, 3)  # the composition of the two convolutions
    weight = model[f"{CONV}.weight"] + 0.25 * expected.numpy()
    assert close(result, f"{CONV}.weight", weight)


def test_locon_with_a_tucker_core(bake):
    model = {f"{CONV}.weight": normal(8, 6, 3, 3)}
    up, mid, down = normal(8, 4, 1, 1), normal(4, 4, 3, 3), normal(4, 6, 1, 1)
    lora = kohya(CONV, up, down, alpha=2.0)
    lora[f"lora_unet_{CONV.replace('.', '_')}.lora_mid.weight"] = mid

    result = bake(model, lora, strengths=[0.5])

    change = np.einsum("mnhw,im,nj->ijhw", mid, up[:, :, 0, 0], down[:, :, 0, 0])
    assert close(result, f"{CONV}.weight", model[f"{CONV}.weight"] + 0.25 * change)


def test_several_loras_add_up_and_strength_zero_changes_nothing(bake):
    model = base("f2")
    one, two, none = ((normal(12, 4), normal(4, 10)) for _ in range(3))

    result = bake(model, *(kohya(LINEAR, *f) for f in (one, two, none)), strengths=[1, -0.5, 0])

    expected = exact(model[f"{LINEAR}.weight"], (*one, 1.0), (*two, -0.5)).astype("f2")
    got = small.array_of(result, f"{LINEAR}.weight")
    assert (got == expected).mean() > 0.99  # sums of the formula are in another order
    assert np.abs(got.view("i2").astype(int) - expected.view("i2")).max() <= 1
    assert bytes(result.read(f"{CONV}.weight")) == model[f"{CONV}.weight"].tobytes()
    assert result.computed == 1


@pytest.mark.parametrize("of", ["f2", "f4"])
def test_compiled_loops_and_numpy_bake_the_same_bits(bake, monkeypatch, of):
    model = {f"{LINEAR}.weight": normal(60, 50, dtype="f2"), f"{CONV}.weight": normal(40, 30, 3, 3)}
    loras = []
    for rank in (3, 8, 5):
        lora = kohya(LINEAR, normal(60, rank, dtype=of), normal(rank, 50, dtype=of), alpha=2.0)
        conv = normal(40, rank, 1, 1, dtype=of), normal(rank, 30, 3, 3, dtype=of)
        loras.append(lora | kohya(CONV, *conv))
    result = bake(model, *loras, strengths=[1, -0.5, 0.3])

    monkeypatch.setattr(low_rank, "compiled", lambda _: None)
    slow = {name: bytes(result.read(name)) for name in model}
    monkeypatch.setattr(low_rank, "compiled", lambda _: True)
    fast = {name: bytes(result.read(name)) for name in model}

    assert fast == slow
    assert slow != {name: array.tobytes() for name, array in model.items()}


NAMINGS = {
    "kohya": ("lora_unet_{_}.lora_up.weight", "lora_unet_{_}.lora_down.weight"),
    "peft": ("base_model.model.{.}.lora_B.weight", "base_model.model.{.}.lora_A.weight"),
    "peft-default": (
        "base_model.model.{.}.lora_B.default.weight",
        "base_model.model.{.}.lora_A.default.weight",
    ),
    "peft-in-unet": (
        "unet.base_model.model.{.}.lora_B.weight",
        "unet.base_model.model.{.}.lora_A.weight",
    ),
    "diffusers-new": ("unet.{.}.lora_B.weight", "unet.{.}.lora_A.weight"),
    "diffusers": ("unet.{.}.lora.up.weight", "unet.{.}.lora.down.weight"),
    "diffusers-linear": (
        "unet.{.}.lora_linear_layer.up.weight",
        "unet.{.}.lora_linear_layer.down.weight",
    ),
    "bare": ("{.}.lora_up.weight", "{.}.lora_down.weight"),
}


@pytest.mark.parametrize("prefix", ["", "unet."])
@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("module", [LINEAR, OUTPUT])
def test_every_dialect_means_the_same(bake, naming, module, prefix):
    model = {prefix + name: array for name, array in base().items()}
    weight = model[f"{prefix}{module}.weight"]
    up, down = normal(len(weight), 4), normal(4, 10)
    names = [n.replace("{.}", module).replace("{_}", module.replace(".", "_"))
             for n in NAMINGS[naming]]  # fmt: skip

    result = bake(model, dict(zip(names, (up, down), strict=True)))

    assert close(result, f"{prefix}{module}.weight", exact(weight, (up, down, 1.0)))


@pytest.mark.parametrize(("part", "module"), [("to_q_lora", LINEAR), ("to_out_lora", OUTPUT)])
def test_old_attention_processors_of_diffusers(bake, part, module):
    model = base()
    stem = f"unet.{LINEAR.rpartition('.')[0]}.processor.{part}"
    up, down = normal(len(model[f"{module}.weight"]), 4), normal(4, 10)

    result = bake(model, {f"{stem}.up.weight": up, f"{stem}.down.weight": down})

    assert close(result, f"{module}.weight", exact(model[f"{module}.weight"], (up, down, 1.0)))


def test_equals_peft_merge_and_unload(bake, tmp_path):
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.proj = torch.nn.Linear(48, 64)
            self.conv = torch.nn.Conv2d(6, 8, 3)

    torch.manual_seed(0)
    block = Block()
    model = {n: t.detach().numpy().copy() for n, t in block.state_dict().items()}
    config = LoraConfig(
        r=8, lora_alpha=12, target_modules=["proj", "conv"], init_lora_weights=False
    )
    wrapped = get_peft_model(block, config)
    lora = {n: t.numpy().copy() for n, t in get_peft_model_state_dict(wrapped).items()}

    result = bake(model, lora, alphas=[12.0])

    merged = wrapped.merge_and_unload().state_dict()
    for name in ("proj.weight", "conv.weight"):
        assert close(result, name, merged[name].double().numpy(), 1e-6)
        assert not close(result, name, model[name], 1e-3)


def test_a_real_stable_diffusion_layout_takes_kohya_and_peft_names(bake, tmp_path):
    specs = {n: Spec(DTYPES["F16"], s) for n, s in sd15.shapes().items()}

    names = aliases(specs)

    unet = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    text = "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight"
    conv = "model.diffusion_model.input_blocks.1.0.in_layers.2.weight"

    def meant(module):
        (run,) = find(module, "weight", names).runs
        return run.tensor

    assert meant(f"lora_unet_{LINEAR.replace('.', '_')}") == unet
    assert meant(f"unet.{LINEAR}") == unet
    assert meant(f"base_model.model.{LINEAR}") == unet
    assert meant("lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q") == unet
    assert meant(f"lora_unet_{CONV.replace('.', '_')}") == conv
    assert meant("lora_te_text_model_encoder_layers_0_mlp_fc1") == text
    assert meant("text_encoder.text_model.encoder.layers.0.mlp.fc1") == text


def test_every_layer_of_the_real_layout_is_reached_by_its_kohya_name():
    specs = {n: Spec(DTYPES["F16"], s) for n, s in sd15.shapes().items()}
    names = aliases(specs)

    layers = [n for n, s in specs.items() if n.endswith("weight") and len(s.shape) > 1]
    unet, text = (
        {run.tensor for key in names if key.startswith(start) for run in names[key].runs}
        for start in ("unet_", "text_encoder_")
    )

    assert {n for n in layers if n.startswith("model.")} <= unet
    assert {n for n in layers if n.startswith("cond_stage")} <= text


def test_what_does_not_fit_is_listed_and_refused(bake):
    lora = kohya(LINEAR, normal(12, 4), normal(4, 10))
    lora |= kohya("mid_block.nothing", normal(3, 2), normal(2, 3))
    lora |= kohya(OUTPUT, normal(11, 4), normal(4, 10))
    lora["lora_unet_x.hada_w1_a"] = normal(3, 3)

    with pytest.raises(MismatchError) as caught:
        bake(base(), lora)

    text = str(caught.value)
    assert "'lora_unet_mid_block_nothing': no such layer" in text
    assert "up [11, 4], down [4, 10] do not make the weight's [10, 10]" in text
    assert "'lora_unet_x.hada_w1_a': not a part of any kind" in text


def test_skip_unmatched_leaves_out_what_does_not_fit(bake):
    model, up, down = base(), normal(12, 4), normal(4, 10)
    lora = kohya(LINEAR, up, down) | kohya("mid_block.nothing", normal(3, 2), normal(2, 3))

    result = bake(model, lora, skip_unmatched=True)

    assert close(result, f"{LINEAR}.weight", exact(model[f"{LINEAR}.weight"], (up, down, 1.0)))
    assert result.computed == 1


def test_a_layer_with_a_part_nobody_knows_is_not_mistaken_for_plain_lora(bake):
    lora = kohya(LINEAR, normal(12, 4), normal(4, 10))
    lora[f"lora_unet_{LINEAR.replace('.', '_')}.lokr_w1"] = normal(12, 1)

    modules, strays = factors({n: small.spec_of(a) for n, a in lora.items()})

    assert modules == []
    assert any("lokr_w1" in name for name in strays)
    with pytest.raises(MismatchError, match="lokr_w1"):
        bake(base(), lora, skip_unmatched=True)


@pytest.mark.parametrize(
    "alpha", [np.zeros(0, "f4"), np.zeros(2, "f4")], ids=["nothing", "two numbers"]
)
def test_an_alpha_that_is_not_one_number_is_refused(bake, alpha):
    lora = kohya(LINEAR, normal(12, 4), normal(4, 10))
    lora[f"lora_unet_{LINEAR.replace('.', '_')}.alpha"] = alpha

    with pytest.raises(MismatchError, match="is not one number"):
        bake(base(), lora)


@pytest.mark.parametrize(
    ("up", "down"),
    [((12, 0), (0, 10)), ((12, 4), (4,)), ((12, 4), (3, 10)), ((4, 12), (4, 10)), ((), ())],
    ids=str,
)
def test_factors_of_impossible_shapes_are_refused(bake, up, down):
    with pytest.raises(MismatchError, match="lora_unet_down_blocks_0"):
        bake(base(), kohya(LINEAR, normal(*up), normal(*down)))


def test_a_wrong_number_of_strengths_is_refused(bake):
    lora = kohya(LINEAR, normal(12, 4), normal(4, 10))

    with pytest.raises(UsageError, match="2 given for 1 LoRAs"):
        bake(base(), lora, strengths=[1, 2])


def test_a_scalar_weight_never_reaches_the_arithmetic(bake):
    with pytest.raises(MismatchError, match="no such layer"):
        bake({"x.weight": np.array(1.0, "f4")}, kohya("x", normal(1, 1), normal(1, 1)))


def test_kohya_files_keep_alpha_per_layer(bake):
    modules, strays = factors(
        {n: small.spec_of(a) for n, a in kohya(LINEAR, normal(12, 4), normal(4, 10), 3.0).items()}
    )

    assert strays == []
    assert json.dumps([f.rank for f in modules]) == "[4]"


def test_in_float32_it_is_what_a_script_with_pytorch_writes(bake):
    up, down = normal(96, 4), normal(4, 64)  # for tiny matrices PyTorch has other loops
    model = base() | {f"{LINEAR}.weight": normal(96, 64)}
    lora = kohya(LINEAR, up, down, alpha=2.0)

    result = bake(model, lora, strengths=[0.8], arithmetic="float32")

    product = torch.from_numpy(up) @ torch.from_numpy(down)
    expected = torch.from_numpy(model[f"{LINEAR}.weight"]) + product * (0.8 * 2.0 / 4)
    got = small.array_of(result, f"{LINEAR}.weight")
    assert got.tobytes() == expected.numpy().tobytes()


def test_another_arithmetic_is_refused(bake):
    with pytest.raises(UsageError, match="it can be float32"):
        bake(base(), kohya(LINEAR, normal(12, 4), normal(4, 10)), arithmetic="fp8")
