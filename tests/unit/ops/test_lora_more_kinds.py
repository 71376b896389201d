"""PEFT's OFT, ComfyUI's whole weights and larger layers, and alphas that differ from module to module."""

import numpy as np
import pytest
import torch

from fixtures import small
from memcard.errors import MismatchError, UnsupportedError, UsageError
from memcard.formats import open_file
from memcard.jobs.lora import lora_bake, lora_node
from memcard.ops import OPS
from memcard.recipes.execute import evaluate
from memcard.recipes.nodes import Apply, Params, Source

RNG = np.random.default_rng(0)


def normal(*shape):
    return (RNG.standard_normal(shape) * 0.2).astype("f4")


@pytest.fixture
def bake(tmp_path):
    def run(model, lora, **params):
        paths = [small.save(tmp_path / f"{i}.safetensors", a) for i, a in enumerate((model, lora))]
        node = Apply("lora_bake", tuple(Source(str(p)) for p in paths), Params(params))
        return evaluate(node, lambda s: open_file(s.ref), OPS)

    return run


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = torch.nn.Linear(24, 20)
        self.conv = torch.nn.Conv2d(4, 6, 3)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_cayley_neumann": False},
        {"num_cayley_neumann_terms": 2},
        {"num_cayley_neumann_terms": 3},
        {"num_cayley_neumann_terms": 4},
        {"num_cayley_neumann_terms": 7},
        {"block_share": True},
    ],
    ids=str,
)
def test_peft_turns_the_same_way(tmp_path, settings):
    from peft import OFTConfig, get_peft_model

    torch.manual_seed(0)
    block = Block()
    model = {n: t.detach().numpy().copy() for n, t in block.state_dict().items()}
    base = small.save(tmp_path / "base.safetensors", model)
    config = OFTConfig(
        r=0, oft_block_size=4, target_modules=["proj", "conv"], init_weights=False, **settings
    )
    wrapped = get_peft_model(block, config)
    wrapped.save_pretrained(tmp_path / "adapter")

    adapter = tmp_path / "adapter" / "adapter_model.safetensors"
    found = small.load(lora_bake(base, [(adapter, 1.0)], tmp_path / "o.safetensors").out)

    merged = wrapped.merge_and_unload().state_dict()
    for name in ("proj.weight", "conv.weight"):
        assert np.abs(found[name] - merged[name].numpy()).max() < 1e-6
        assert np.abs(found[name] - model[name]).max() > 1e-2
    said = "neumann_terms" in dict(lora_node(base, [(adapter, 1.0)]).params)
    assert said == (
        settings.keys() == {"num_cayley_neumann_terms"} or "use_cayley_neumann" in settings
    )


def test_half_of_a_rotation_is_half_of_its_change(bake):
    weight, turns = normal(6, 8), {"unet.x.oft_R.weight": normal(2, 6)}

    whole, half = (
        small.array_of(bake({"x.weight": weight}, turns, strengths=[s]), "x.weight").astype("f8")
        for s in (1.0, 0.5)
    )

    assert np.allclose(half, (weight + whole) / 2, atol=1e-6)


def test_constrained_oft_is_refused(tmp_path):
    base = small.save(tmp_path / "base.safetensors", {"x.weight": normal(6, 8)})
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"peft_type": "OFT", "coft": true}', "utf-8")
    lora = {"base_model.model.x.oft_R.weight": normal(2, 6)}
    adapter = small.save(folder / "adapter_model.safetensors", lora)

    with pytest.raises(UnsupportedError, match="coft"):
        lora_bake(base, [(adapter, 1.0)], tmp_path / "o.safetensors")


@pytest.mark.parametrize("shape", [(3, 6), (2, 5), (2, 6, 1)], ids=str)
def test_rotations_that_do_not_fill_the_inputs_are_refused(bake, shape):
    with pytest.raises(MismatchError, match="oft_r"):
        bake({"x.weight": normal(6, 8)}, {"unet.x.oft_R.weight": normal(*shape)})


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_a_whole_weight_takes_the_place_of_the_old_one(bake, strength):
    new = normal(6, 8)

    result = bake(
        {"x.weight": normal(6, 8)},
        {"diffusion_model.x.set_weight": new},
        strengths=[strength],
    )

    assert np.array_equal(small.array_of(result, "x.weight"), new)


def test_at_strength_nought_the_old_weight_stays(bake):
    old = normal(6, 8)

    result = bake({"x.weight": old}, {"diffusion_model.x.set_weight": normal(6, 8)}, strengths=[0])

    assert np.array_equal(small.array_of(result, "x.weight"), old)


def test_a_larger_layer_is_refused_and_one_that_fits_is_not(bake):
    def lora(columns):
        return {
            "diffusion_model.x.lora_up.weight": normal(6, 2),
            "diffusion_model.x.lora_down.weight": normal(2, columns),
            "diffusion_model.x.reshape_weight": np.array([6, columns]),
        }

    fits = lora(8)
    up, down = (fits[f"diffusion_model.x.lora_{end}.weight"] for end in ("up", "down"))
    weight = normal(6, 8)

    result = bake({"x.weight": weight}, fits)

    assert np.allclose(small.array_of(result, "x.weight"), weight + up @ down, atol=1e-6)
    with pytest.raises(MismatchError, match=r"\[2, 16\] do not make the weight's \[6, 8\]"):
        bake({"x.weight": weight}, lora(16))


def test_alphas_may_differ_from_module_to_module(bake):
    model = {f"{n}.weight": normal(6, 8) for n in "ab"}
    lora = {f"unet.{n}.lora_A.weight": normal(2, 8) for n in "ab"}
    lora |= {f"unet.{n}.lora_B.weight": normal(6, 2) for n in "ab"}

    result = bake(model, lora, alphas=[4.0], module_alphas="1 unet.b=1.0")

    for name, scale in (("a", 2.0), ("b", 0.5)):
        change = lora[f"unet.{name}.lora_B.weight"] @ lora[f"unet.{name}.lora_A.weight"]
        wanted = model[f"{name}.weight"] + scale * change
        assert np.allclose(small.array_of(result, f"{name}.weight"), wanted, atol=1e-6)


@pytest.mark.parametrize("line", ["x unet.b=1", "1 unet.b", "1", "1 unet.b=much"])
def test_a_line_that_is_no_alpha_is_refused(bake, line):
    lora = {"unet.x.diff": normal(6, 8)}

    with pytest.raises(UsageError, match="LORA MODULE=ALPHA"):
        bake({"x.weight": normal(6, 8)}, lora, module_alphas=f"1 unet.a=2\n{line}")
