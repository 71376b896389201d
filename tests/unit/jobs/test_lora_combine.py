"""Combining LoRAs: one file that does what all of them do."""

import numpy as np
import pytest
import torch

from fixtures import small
from memcard.errors import MismatchError, UsageError
from memcard.formats import open_file
from memcard.jobs.lora import lora_bake
from memcard.jobs.lora_combine import lora_combine

RNG = np.random.default_rng(0)


def normal(*shape, dtype="f4"):
    return (RNG.standard_normal(shape) * 0.2).astype(dtype)


def kohya(module, rows, columns, rank, alpha=None, kernel=(), dtype="f4"):
    ones = (1,) * len(kernel)
    found = {
        f"lora_unet_{module}.lora_up.weight": normal(rows, rank, *ones, dtype=dtype),
        f"lora_unet_{module}.lora_down.weight": normal(rank, columns, *kernel, dtype=dtype),
    }
    return found if alpha is None else found | {f"lora_unet_{module}.alpha": np.array(alpha, dtype)}


@pytest.fixture
def base(tmp_path):
    arrays = {"a.weight": normal(16, 12), "c.weight": normal(10, 6, 3, 3), "a.bias": normal(16)}
    return small.save(tmp_path / "base.safetensors", arrays)


@pytest.fixture
def loras(tmp_path):
    one = kohya("a", 16, 12, 4, alpha=2.0) | kohya("c", 10, 6, 3, kernel=(3, 3))
    two = kohya("a", 16, 12, 6, alpha=6.0) | {"lora_unet_a.diff_b": normal(16)}
    return [
        (small.save(tmp_path / "one.safetensors", one), 0.8),
        (small.save(tmp_path / "two.safetensors", two), -0.5),
    ]


def baked(base, loras, out):
    return small.load(lora_bake(base, loras, out, overwrite=True).out)


def test_baking_the_combination_is_baking_each(base, loras, tmp_path):
    made = lora_combine(loras, tmp_path / "both.safetensors")

    got = baked(base, [(made.out, 1.0)], tmp_path / "x.safetensors")
    wanted = baked(base, loras, tmp_path / "y.safetensors")
    for name in wanted:
        assert np.abs(got[name] - wanted[name]).max() < 2e-7, name
    assert (made.exact, made.error, made.ranks) == (True, 0.0, {3: 1, 10: 1})


def test_dialects_may_differ_and_the_result_is_kohyas(base, loras, tmp_path):
    up, down = normal(16, 4), normal(4, 12)
    peft = {"unet.a.lora_B.weight": up, "unet.a.lora_A.weight": down}
    other = small.save(tmp_path / "peft.safetensors", peft)

    made = lora_combine([(other, 0.5), *loras], tmp_path / "all.safetensors")

    assert sorted(made.ranks) == [3, 14]
    assert all(n.startswith("lora_unet_") for n in open_file(made.out).specs)
    got = baked(base, [(made.out, 1.0)], tmp_path / "x.safetensors")
    wanted = baked(base, [(other, 0.5), *loras], tmp_path / "y.safetensors")
    assert np.abs(got["a.weight"] - wanted["a.weight"]).max() < 2e-7


def test_a_tucker_core_becomes_a_plain_factor(base, tmp_path):
    tucker = {
        "lora_unet_c.lora_up.weight": normal(10, 4, 1, 1),
        "lora_unet_c.lora_mid.weight": normal(4, 4, 3, 3),
        "lora_unet_c.lora_down.weight": normal(4, 6, 1, 1),
    }
    lora = small.save(tmp_path / "t.safetensors", tucker)

    made = lora_combine([(lora, 1.0)], tmp_path / "p.safetensors")

    assert open_file(made.out).specs["lora_unet_c.lora_down.weight"].shape == (4, 6, 3, 3)
    got = baked(base, [(made.out, 1.0)], tmp_path / "x.safetensors")
    wanted = baked(base, [(lora, 1.0)], tmp_path / "y.safetensors")
    assert np.abs(got["c.weight"] - wanted["c.weight"]).max() < 2e-7


def test_recompression_is_the_best_of_its_rank(loras, tmp_path):
    made = lora_combine(loras, tmp_path / "r.safetensors", rank=4)

    one, two = (small.load(path) for path, _ in loras)
    whole = 0.8 * 2 / 4 * _product(one, "a") - 0.5 * _product(two, "a")
    values = np.linalg.svd(whole, compute_uv=False)
    best = np.sqrt((values[4:] ** 2).sum() / (values**2).sum())
    lost = np.linalg.norm(whole - _product(small.load(made.out), "a")) / np.linalg.norm(whole)
    assert lost == pytest.approx(best, rel=1e-5)
    assert made.error == pytest.approx(best, rel=1e-5)
    assert not made.exact
    assert set(made.ranks) == {3, 4}


def _product(lora, module):
    up, down = (
        lora[f"lora_unet_{module}.lora_{end}.weight"].astype("f8") for end in ("up", "down")
    )
    return up.reshape(len(up), -1) @ down.reshape(len(down), -1)


def test_kinds_without_factors_take_a_rank(tmp_path):
    loha = {
        f"lora_unet_a.hada_w{n}_{p}": normal(*s)
        for n in (1, 2)
        for p, s in (("a", (16, 2)), ("b", (2, 12)))
    }
    lora = small.save(tmp_path / "h.safetensors", loha)

    with pytest.raises(MismatchError, match="give a --rank"):
        lora_combine([(lora, 1.0)], tmp_path / "x.safetensors")
    made = lora_combine([(lora, 0.5)], tmp_path / "x.safetensors", rank=4)

    parts = {k.rpartition(".")[2]: v.astype("f8") for k, v in loha.items()}
    whole = (parts["hada_w1_a"] @ parts["hada_w1_b"]) * (parts["hada_w2_a"] @ parts["hada_w2_b"])
    assert np.allclose(_product(small.load(made.out), "a"), 0.5 * whole, atol=1e-6)


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        ({"lora_unet_a.dora_scale": np.ones((1, 12), "f4")}, "DoRA depends on the weight"),
        ({"lora_unet_x.oft_blocks": np.ones((3, 4, 4), "f4")}, "OFT depends on the weight"),
        ({"what.ever": np.ones(3, "f4")}, "not a part of any kind"),
    ],
)
def test_what_is_no_sum_is_refused_before_anything_is_written(tmp_path, extra, text):
    lora = small.save(tmp_path / "l.safetensors", kohya("a", 16, 12, 4) | extra)

    with pytest.raises(MismatchError, match=text):
        lora_combine([(lora, 1.0)], tmp_path / "x.safetensors")

    assert not (tmp_path / "x.safetensors").exists()


def test_loras_of_different_models_are_refused(tmp_path):
    one = small.save(tmp_path / "1.safetensors", kohya("a", 16, 12, 4))
    two = small.save(tmp_path / "2.safetensors", kohya("a", 16, 24, 4))

    with pytest.raises(MismatchError, match=r"\[16, 24\], in another of the files \[16, 12\]"):
        lora_combine([(one, 1.0), (two, 1.0)], tmp_path / "x.safetensors")


def test_a_value_too_large_for_the_dtype_is_refused(tmp_path):
    lora = small.save(tmp_path / "1.safetensors", kohya("a", 16, 12, 4))

    with pytest.raises(MismatchError, match="--dtype F32"):
        lora_combine([(lora, 1e9)], tmp_path / "x.safetensors", dtype="F16")


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"dtype": "F64"}], ids=str)
def test_arguments_out_of_range_are_refused(loras, tmp_path, wrong):
    with pytest.raises(UsageError):
        lora_combine(loras, tmp_path / "x.safetensors", **wrong)
    with pytest.raises(UsageError, match="no LoRA"):
        lora_combine([], tmp_path / "x.safetensors")


def test_agrees_with_peft_laying_adapters_side_by_side(tmp_path):
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.proj = torch.nn.Linear(20, 24)

    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=4, target_modules=["proj"], init_lora_weights=False)
    wrapped = get_peft_model(Block(), config, adapter_name="one")
    wrapped.add_adapter("two", config)
    saved = []
    for name, strength in (("one", 0.8), ("two", 0.5)):
        state = get_peft_model_state_dict(wrapped, adapter_name=name)
        path = tmp_path / f"{name}.safetensors"
        saved.append((small.save(path, {k: v.numpy().copy() for k, v in state.items()}), strength))
    wrapped.add_weighted_adapter(["one", "two"], [0.8, 0.5], "both", combination_type="cat")
    layer = wrapped.base_model.model.proj
    wanted = (layer.lora_B["both"].weight @ layer.lora_A["both"].weight).detach().numpy()
    wanted = wanted * layer.scaling["both"]

    made = lora_combine(saved, tmp_path / "both.safetensors")

    assert np.allclose(_product(small.load(made.out), "proj"), wanted, rtol=0, atol=1e-6)


def test_rank_stabilised_alpha_and_patterns_are_understood(base, tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    peft = {
        "base_model.model.a.lora_B.weight": normal(16, 4),
        "base_model.model.a.lora_A.weight": normal(4, 12),
    }
    lora = small.save(folder / "adapter_model.safetensors", peft)
    config = folder / "adapter_config.json"

    config.write_text('{"r": 4, "lora_alpha": 8, "use_rslora": true}', "utf-8")
    made = lora_combine([(lora, 1.0)], tmp_path / "x.safetensors")
    config.write_text('{"r": 4, "lora_alpha": 8, "alpha_pattern": {"a": 3}}', "utf-8")
    other = lora_combine([(lora, 1.0)], tmp_path / "y.safetensors")

    product = peft["base_model.model.a.lora_B.weight"] @ peft["base_model.model.a.lora_A.weight"]
    assert np.allclose(_product(small.load(made.out), "a"), 8 / 2 * product, atol=1e-5)
    assert np.allclose(_product(small.load(other.out), "a"), 3 / 4 * product, atol=1e-5)
