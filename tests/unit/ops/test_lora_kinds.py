"""Every kind of LoRA, baked from a file, against plain formulas; PEFT and diffusers as oracles."""

import numpy as np
import pytest
import torch

from fixtures import diffusers_models, small
from memcard.core.views import Rearranged
from memcard.dialects import translate
from memcard.errors import MismatchError, UsageError
from memcard.formats import open_file
from memcard.ops import OPS
from memcard.ops._lora_names import layers
from memcard.recipes.execute import evaluate
from memcard.recipes.nodes import Apply, Params, Source

RNG = np.random.default_rng(0)
OUT, IN, R = 12, 8, 3


def normal(*shape):
    return (RNG.standard_normal(shape) * 0.2).astype("f4")


@pytest.fixture
def bake(tmp_path):
    def run(model, *loras, **params):
        paths = [
            small.save(tmp_path / f"{i}.safetensors", a) for i, a in enumerate((model, *loras))
        ]
        node = Apply("lora_bake", tuple(Source(str(p)) for p in paths), Params(params))
        return evaluate(node, lambda s: open_file(s.ref), OPS)

    return run


def close(result, name, expected, tolerance=1e-6):
    got = small.array_of(result, name).astype("f8")
    return got.shape == expected.shape and np.abs(got - expected).max() <= tolerance


def loha(kernel):
    side = int(np.prod(kernel, initial=1))
    parts = {"hada_w1_a": normal(OUT, R), "hada_w1_b": normal(R, IN * side)}
    parts |= {
        "hada_w2_a": normal(OUT, R),
        "hada_w2_b": normal(R, IN * side),
        "alpha": np.float32(2),
    }
    delta = (parts["hada_w1_a"] @ parts["hada_w1_b"]) * (parts["hada_w2_a"] @ parts["hada_w2_b"])
    return parts, 2 / R * delta


def loha_tucker(kernel):
    parts = {
        "hada_w1_a": normal(R, OUT),
        "hada_w1_b": normal(R, IN),
        "hada_t1": normal(R, R, *kernel),
    }
    parts |= {
        "hada_w2_a": normal(R, OUT),
        "hada_w2_b": normal(R, IN),
        "hada_t2": normal(R, R, *kernel),
    }
    one, two = (
        np.einsum("ij...,ip,jr->pr...", parts[f"hada_t{n}"], parts[f"hada_w{n}_a"], parts[f"hada_w{n}_b"])
        for n in (1, 2)
    )  # fmt: skip
    return parts, one * two


def lokr_whole(kernel):
    parts = {"lokr_w1": normal(4, 2), "lokr_w2": normal(3, 4, *kernel), "alpha": np.float32(7)}
    return parts, _kron(parts["lokr_w1"], parts["lokr_w2"])  # alpha has no rank to be divided by


def lokr_factors(kernel):
    side = int(np.prod(kernel, initial=1))
    parts = {"lokr_w1_a": normal(4, R), "lokr_w1_b": normal(R, 2), "lokr_w2_a": normal(3, R)}
    parts |= {"lokr_w2_b": normal(R, 4 * side), "alpha": np.float32(2)}
    right = (parts["lokr_w2_a"] @ parts["lokr_w2_b"]).reshape(3, 4, *kernel)
    return parts, 2 / R * _kron(parts["lokr_w1_a"] @ parts["lokr_w1_b"], right)


def lokr_tucker(kernel):
    parts = {"lokr_w1": normal(4, 2), "lokr_w2_a": normal(R, 3), "lokr_w2_b": normal(R, 4)}
    parts["lokr_t2"] = normal(R, R, *kernel)
    right = np.einsum(
        "ij...,ip,jr->pr...", parts["lokr_t2"], parts["lokr_w2_a"], parts["lokr_w2_b"]
    )
    return parts, _kron(parts["lokr_w1"], right)


def _kron(left, right):
    return torch.kron(torch.tensor(left).reshape(*left.shape, *(1,) * (right.ndim - 2)),
                      torch.tensor(right)).numpy()  # fmt: skip


def difference(kernel):
    parts = {"diff": normal(OUT, IN, *kernel)}
    return parts, parts["diff"]


KINDS = (loha, lokr_whole, lokr_factors, difference)


@pytest.mark.parametrize("strength", [1.0, -0.6])
@pytest.mark.parametrize(
    ("make", "kernel"),
    [(k, kernel) for k in KINDS for kernel in ((), (1, 1), (3, 3))]
    + [(loha_tucker, (3, 3)), (lokr_tucker, (3, 3))],
)
def test_changes_that_add_up(bake, make, kernel, strength):
    weight = normal(OUT, IN, *kernel)
    parts, delta = make(kernel)

    result = bake(
        {"x.weight": weight},
        {f"lora_unet_x.{part}": np.asarray(a) for part, a in parts.items()},
        strengths=[strength],
    )

    expected = weight.astype("f8") + strength * delta.astype("f8").reshape(weight.shape)
    assert close(result, "x.weight", expected)


def test_norms_and_biases_change_too(bake):
    model = {
        "n.weight": normal(6),
        "n.bias": normal(6),
        "x.weight": normal(4, 6),
        "x.bias": normal(4),
    }
    norm = {"lora_unet_n.w_norm": normal(6), "lora_unet_n.b_norm": normal(6)}
    up, down = normal(4, 2), normal(2, 6)
    lora = {"lora_unet_x.lora_up.weight": up, "lora_unet_x.lora_down.weight": down}
    bias = {"lora_unet_x.diff_b": normal(4)}

    result = bake(model, norm | lora | bias, strengths=[0.5])

    for name, change in (
        ("n.weight", norm["lora_unet_n.w_norm"]),
        ("n.bias", norm["lora_unet_n.b_norm"]),
        ("x.weight", up @ down),
        ("x.bias", bias["lora_unet_x.diff_b"]),
    ):
        assert close(result, name, model[name].astype("f8") + 0.5 * change)


@pytest.mark.parametrize("on_input", [True, False])
@pytest.mark.parametrize("kernel", [(), (3, 3)])
def test_ia3(bake, on_input, kernel):
    weight, factors = normal(OUT, IN, *kernel), normal(IN if on_input else OUT)
    lora = {"lora_unet_x.weight": factors, "lora_unet_x.on_input": np.array(int(on_input))}

    result = bake({"x.weight": weight}, lora, strengths=[0.5])

    ones = (1,) * len(kernel)
    along = factors.reshape(1, -1, *ones) if on_input else factors.reshape(-1, 1, *ones)
    assert close(result, "x.weight", weight * (1 + 0.5 * along.astype("f8")))


@pytest.mark.parametrize("old", [True, False])
def test_glora_in_both_orders_of_its_factors(bake, old):
    weight = normal(OUT, IN)
    a1, a2, b1, b2 = normal(IN, R), normal(R, IN), normal(OUT, R), normal(R, IN)
    named = (
        {"a1": a2, "a2": a1, "b1": b2, "b2": b1}
        if old
        else {"a1": a1, "a2": a2, "b1": b1, "b2": b2}
    )
    lora = {f"lora_unet_x.{part}.weight": a for part, a in named.items()}

    result = bake({"x.weight": weight}, lora | {"lora_unet_x.alpha": np.float32(1.5).reshape(())})

    assert close(result, "x.weight", weight + 1.5 / R * (weight @ a1 @ a2 + b1 @ b2))


def test_oft_keeps_the_length_and_boft_is_told_by_its_stages(bake):
    weight = normal(OUT, IN)
    oft = {"lora_unet_x.oft_blocks": normal(3, 4, 4)}
    boft = {"lora_unet_x.oft_blocks": normal(2, 6, 2, 2)}

    for lora in (oft, boft):
        got = small.array_of(bake({"x.weight": weight}, lora), "x.weight")
        assert np.isclose(np.linalg.norm(got), np.linalg.norm(weight), rtol=1e-6)
        assert not np.allclose(got, weight, atol=1e-2)


def test_dora_at_half_strength_is_half_of_the_whole_change(bake):
    weight, up, down = normal(OUT, IN), normal(OUT, R), normal(R, IN)
    lora = {"lora_unet_x.lora_up.weight": up, "lora_unet_x.lora_down.weight": down}
    lora["lora_unet_x.dora_scale"] = np.abs(normal(1, IN)) + 1

    result = bake({"x.weight": weight}, lora, strengths=[0.5])

    moved = weight.astype("f8") + up.astype("f8") @ down
    full = moved * lora["lora_unet_x.dora_scale"] / np.linalg.norm(moved, axis=0, keepdims=True)
    assert close(result, "x.weight", (weight + full) / 2)


def test_each_lora_changes_what_those_before_it_have_made(bake):
    weight, turn = normal(OUT, IN), {"lora_unet_x.weight": np.ones(IN, "f4")}
    turn["lora_unet_x.on_input"] = np.array(1)
    plain = {"lora_unet_x.diff": normal(OUT, IN)}

    after = bake({"x.weight": weight}, plain, turn)

    assert close(after, "x.weight", 2 * (weight.astype("f8") + plain["lora_unet_x.diff"]))


@pytest.mark.parametrize("kind", ["DoRA", "(IA)3"])
def test_peft_merges_the_same(bake, kind):
    from peft import IA3Config, LoraConfig, get_peft_model, get_peft_model_state_dict

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.proj = torch.nn.Linear(20, 24)
            self.out = torch.nn.Linear(24, 20)

    torch.manual_seed(0)
    block = Block()
    model = {n: t.detach().numpy().copy() for n, t in block.state_dict().items()}
    names = ["proj", "out"]
    if kind == "DoRA":
        config = LoraConfig(
            r=4, lora_alpha=4, target_modules=names, use_dora=True, init_lora_weights=False
        )
    else:
        config = IA3Config(
            target_modules=names, feedforward_modules=["out"], init_ia3_weights=False
        )
    wrapped = get_peft_model(block, config)
    for name, value in wrapped.named_parameters():
        if "ia3" in name or "magnitude" in name:
            value.data.uniform_(0.5, 1.5)
    lora = {n: t.numpy().copy() for n, t in get_peft_model_state_dict(wrapped).items()}

    result = bake(model, lora)

    merged = wrapped.merge_and_unload().state_dict()
    for name in ("proj.weight", "out.weight"):
        assert close(result, name, merged[name].double().numpy(), 1e-6)
        assert not close(result, name, model[name], 1e-2)


@pytest.mark.parametrize("threads", [1, 2])
def test_blocks_multiply_the_strength_where_the_pattern_is_found(bake, threads):
    model = {"up_1.weight": normal(OUT, IN), "mid.weight": normal(OUT, IN)}
    lora = {f"lora_unet_{n}.diff": normal(OUT, IN) for n in ("up_1", "mid")}

    result = bake(model, lora, strengths=[0.8], blocks="up_1=0.5\n^unet_=0\n")

    assert close(result, "up_1.weight", model["up_1.weight"] + 0.4 * lora["lora_unet_up_1.diff"])
    assert bytes(result.read("mid.weight")) == model["mid.weight"].tobytes()


@pytest.mark.parametrize("line", ["up=x", "up", "(=1", "=1", "up=inf"])
def test_a_block_rule_that_is_none_is_refused(bake, line):
    model, lora = {"x.weight": normal(OUT, IN)}, {"lora_unet_x.diff": normal(OUT, IN)}

    with pytest.raises(UsageError, match="REGEX=NUMBER"):
        bake(model, lora, blocks=f"ok=1\n{line}")


@pytest.mark.parametrize(
    "parts",
    [
        {
            "hada_w1_a": (OUT, R),
            "hada_w1_b": (R, IN + 1),
            "hada_w2_a": (OUT, R),
            "hada_w2_b": (R, IN),
        },
        {"lokr_w1": (5, 2), "lokr_w2": (3, 4)},
        {"diff": (OUT, IN, 3)},
        {"oft_blocks": (3, 4, 5)},
        {"oft_blocks": (2, 4, 3, 3)},
        {"a1.weight": (IN, R), "a2.weight": (R, IN), "b1.weight": (OUT, R), "b2.weight": (R, 3)},
        {"weight": (5,), "on_input": ()},
        {"lora_up.weight": (OUT, R), "lora_down.weight": (R, IN), "dora_scale": (1, 5)},
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_with_its_shapes(bake, parts):
    lora = {f"lora_unet_x.{p}": normal(*shape) for p, shape in parts.items()}

    with pytest.raises(MismatchError, match=r"lora_unet_x.*weight's"):
        bake({"x.weight": normal(OUT, IN)}, lora)


FAMILIES = {name: getattr(diffusers_models, name) for name in ("sd1", "sdxl", "sd3", "flux")}


@pytest.fixture(scope="module", params=FAMILIES)
def both_dialects(request, tmp_path_factory):
    """One small model as diffusers has it, and the same tensors under their original names."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(request.param)
    arrays = {
        f"{part}.{name}": value.detach().float().numpy().copy()
        for part, module in FAMILIES[request.param]().items()
        for name, value in module.state_dict().items()
        if value.is_floating_point()
    }
    path = small.save(folder / "diffusers.safetensors", arrays)
    opened = open_file(path)
    view = Rearranged(opened, translate(opened.specs, "ldm").arrangements)
    original = small.save(
        folder / "ldm.safetensors", {n: small.array_of(view, n) for n in view.specs}
    )
    opened.close()
    return original, path, folder


def test_a_lora_means_the_same_in_either_dialect_of_its_base(both_dialects):
    original, path, folder = both_dialects
    one = open_file(original)
    found = layers(one.specs)
    lora = {}
    for layer in found:
        rows, columns = layer.place.rows, int(np.prod(layer.place.shape[1:]))
        shape = 2, *layer.place.shape[1:]
        ones = (1,) * (len(shape) - 2)
        lora[f"{layer.name}.lora_up.weight"] = normal(rows, 2).reshape(rows, 2, *ones)
        lora[f"{layer.name}.lora_down.weight"] = normal(2, columns).reshape(shape)
    saved = small.save(folder / "lora.safetensors", lora)

    baked = [
        evaluate(
            Apply("lora_bake", (Source(str(base)), Source(str(saved)))),
            lambda s: open_file(s.ref), OPS,
        )
        for base in (original, path)
    ]  # fmt: skip

    there = Rearranged(baked[1], translate(baked[1].specs, "ldm").arrangements)
    assert {layer.name for layer in layers(open_file(path).specs)} >= {x.name for x in found}
    changed = 0
    for name in one.specs:
        assert np.array_equal(small.array_of(baked[0], name), small.array_of(there, name)), name
        changed += bytes(baked[0].read(name)) != bytes(one.read(name))
    assert changed >= len({run.tensor for x in found for run in x.place.runs}) > 20


def test_dora_on_a_weight_that_the_base_has_in_parts_is_refused_with_a_way_out(bake):
    torch.manual_seed(0)
    model = {
        f"transformer.{n}": v.detach().float().numpy().copy()
        for n, v in diffusers_models.flux()["transformer"].state_dict().items()
    }
    module = "lora_unet_double_blocks_0_img_attn_qkv"
    wide = diffusers_models.FLUX_WIDTH
    lora = {
        f"{module}.lora_up.weight": normal(3 * wide, 2),
        f"{module}.lora_down.weight": normal(2, wide),
    }

    assert bake(model, lora).computed == 3
    with pytest.raises(MismatchError, match="--dialect"):
        bake(model, lora | {f"{module}.dora_scale": np.ones((3 * wide, 1), "f4")})


def test_flux_names_agree_with_those_that_diffusers_makes_of_kohyas(bake):
    from diffusers.loaders.lora_conversion_utils import _convert_kohya_flux_lora_to_diffusers

    torch.manual_seed(0)
    wide = diffusers_models.FLUX_WIDTH
    model = {
        f"transformer.{n}": v.detach().float().numpy().copy()
        for n, v in diffusers_models.flux()["transformer"].state_dict().items()
    }
    lora = {}
    for module, rows, columns in (
        ("double_blocks_0_img_attn_qkv", 3 * wide, wide),
        ("double_blocks_0_txt_attn_proj", wide, wide),
        ("double_blocks_0_img_mlp_0", 4 * wide, wide),
        ("single_blocks_0_linear2", wide, 5 * wide),
    ):
        lora[f"lora_unet_{module}.lora_up.weight"] = normal(rows, 2)
        lora[f"lora_unet_{module}.lora_down.weight"] = normal(2, columns)
        lora[f"lora_unet_{module}.alpha"] = np.array(2, "f4")
    theirs = _convert_kohya_flux_lora_to_diffusers({n: torch.tensor(a) for n, a in lora.items()})

    ours = bake(model, lora)
    converted = bake(model, {n: v.contiguous().numpy() for n, v in theirs.items()})

    assert ours.computed == converted.computed == 6
    for name in ours.specs:
        got, wanted = small.array_of(ours, name), small.array_of(converted, name)
        assert np.abs(got - wanted).max() <= 1e-6
