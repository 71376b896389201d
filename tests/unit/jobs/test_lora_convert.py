"""Converting LoRAs between dialects: no bit lost, the same change; diffusers and PEFT as oracles."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fixtures import adapters, diffusers_models, small
from fixtures.long import mostly_slow
from fixtures.published import published
from memcard.core.views import Rearranged
from memcard.dialects import translate
from memcard.errors import MismatchError, UsageError
from memcard.formats import open_file
from memcard.jobs._lora_book import book_for
from memcard.jobs._lora_layout import layouts
from memcard.jobs.lora import lora_bake
from memcard.jobs.lora_convert import lora_convert
from memcard.jobs.resolve import locate
from memcard.ops._lora_names import layers

RNG = np.random.default_rng(0)
R = 4
UP, DOWN = "lora_up.weight", "lora_down.weight"


def normal(*shape, dtype="f2"):
    return (RNG.standard_normal(shape) * 0.2).astype(dtype)


def kohya(base, alphas=(2.0, 2.0, 4.0)):
    """A LoRA on every layer of a base; alphas differ from layer to layer."""
    checkpoint, found = open_file(base), {}
    chosen = [x for x in layers(checkpoint.specs) if "pos_embed" not in x.name]
    for i, layer in enumerate(chosen):
        shape = layer.place.shape
        found[f"{layer.name}.{UP}"] = normal(shape[0], R, *(1,) * (len(shape) - 2))
        found[f"{layer.name}.{DOWN}"] = normal(R, *shape[1:])
        found[f"{layer.name}.alpha"] = np.array(alphas[i % len(alphas)], "f2")
    checkpoint.close()
    return found


def same(one, two):
    return one.keys() == two.keys() and all(
        (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
        for a, b in zip(one.values(), (two[n] for n in one), strict=True)
    )


def baked(base, lora, out, strength=0.8):
    return small.load(lora_bake(base, [(lora, strength)], out, overwrite=True).out)


@pytest.fixture(scope="module", params=mostly_slow(["sd1", "sdxl", "sd3", "flux"], "sd1"))
def model(request, tmp_path_factory):
    """A small model of a family: its file in original names, its LoRA in kohya's, a folder."""
    folder = tmp_path_factory.mktemp(request.param)
    _, tensors = diffusers_models.family(request.param)
    opened = open_file(diffusers_models.save(folder / "diffusers.safetensors", tensors))
    view = Rearranged(opened, translate(opened.specs, "ldm", family=request.param).arrangements)
    base = small.save(folder / "base.safetensors", {n: small.array_of(view, n) for n in view.specs})
    opened.close()
    lora = small.save(folder / "lora.safetensors", kohya(base), {"ss_output_name": "ink"})
    return request.param, base, lora, folder


@pytest.mark.parametrize("to", ["peft", "diffusers"])
def test_there_and_back_gives_the_same_tensors_and_the_same_bake(model, to, tmp_path):
    _, base, lora, _ = model

    there = lora_convert(lora, tmp_path / "there.safetensors", to=to, base=base)
    back = lora_convert(there.out, tmp_path / "back.safetensors", to="kohya", base=base)

    assert same(small.load(back.out), small.load(lora))
    assert open_file(back.out).metadata["ss_output_name"] == "ink"
    wanted = baked(base, lora, tmp_path / "x.safetensors")
    assert same(baked(base, there.out, tmp_path / "y.safetensors"), wanted)
    assert not same(wanted, small.load(base))
    assert any("alpha is not the rank" in note for note in there.notes)


def test_folded_alpha_needs_no_configuration(model, tmp_path):
    _, base, lora, _ = model

    made = lora_convert(
        lora, tmp_path / "o.safetensors", to="diffusers", base=base, fold_alpha=True
    )

    assert "lora_adapter_metadata" not in open_file(made.out).metadata
    assert "multiplied into" in made.notes[0]
    got, wanted = (baked(base, x, tmp_path / "o2.safetensors") for x in (made.out, lora))
    assert all(np.abs(got[n] - wanted[n]).max(initial=0) < 1e-6 for n in wanted)


def test_diffusers_itself_adds_the_same(model, tmp_path):
    family, base, lora, _ = model
    part = "transformer" if family in ("sd3", "flux") else "unet"
    made = lora_convert(lora, tmp_path / "o.safetensors", to="diffusers", base=base)
    models, tensors = diffusers_models.family(family)
    theirs = type(models[part]).from_config(models[part].config)
    start = f"{part}."
    theirs.load_state_dict({n[len(start) :]: t for n, t in tensors.items() if n.startswith(start)})

    theirs.load_lora_adapter(str(tmp_path), weight_name=made.out.name, prefix=part)
    theirs.fuse_lora()
    theirs.unload_lora()

    ours = open_file(lora_bake(base, [(lora, 1.0)], tmp_path / "b.safetensors").out)
    view = Rearranged(ours, translate(ours.specs, "diffusers", family=family).arrangements)
    changed = 0
    for name, value in theirs.state_dict().items():
        got = small.array_of(view, f"{part}.{name}")
        assert np.abs(got - value.numpy()).max(initial=0) < 2e-5, name
        changed += not np.array_equal(got, tensors[f"{part}.{name}"].numpy())
    assert changed > 20


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_diffusers_own_conversion_means_the_same_modules(family, tmp_path):
    from diffusers.loaders.lora_conversion_utils import (
        _convert_non_diffusers_lora_to_diffusers,
        _maybe_map_sgm_blocks_to_diffusers,
    )

    _, tensors = diffusers_models.family(family)
    base = diffusers_models.save(tmp_path / "base.safetensors", tensors)
    checkpoint = open_file(base)
    lora = {n: a for n, a in kohya(base).items() if "attentions" in n or "_1_transf" in n}
    theirs = {n: torch.tensor(np.array(a)) for n, a in lora.items()}
    if family == "sdxl":
        levels = type("config", (), {"layers_per_block": 2})
        theirs = _maybe_map_sgm_blocks_to_diffusers(theirs, levels)
    theirs, _ = _convert_non_diffusers_lora_to_diffusers(theirs)
    book = book_for(checkpoint, [], family=None, base=checkpoint)
    ends = ("_lora.down.weight", ".lora.down.weight")
    wanted = {
        book.parse(next(n.removesuffix(e) for e in ends if n.endswith(e)))
        for n in theirs
        if n.endswith(ends)
    }

    made = lora_convert(
        small.save(tmp_path / "l.safetensors", lora),
        tmp_path / "o.safetensors",
        to="diffusers",
        base=base,
    )

    got = {
        book.parse(n.removesuffix(".lora_A.weight"))
        for n in open_file(made.out).specs
        if n.endswith(".lora_A.weight")
    }
    assert got == wanted
    assert None not in got
    assert len(got) > 50


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl", "sd3", "flux"])
def test_names_of_a_family_are_known_without_a_base(family):
    _, tensors = diffusers_models.family(family)
    specs = {n: small.spec_of(t.numpy()) for n, t in tensors.items() if t.is_floating_point()}
    base = type("Base", (), {"specs": specs, "metadata": {}})()
    from_base = book_for(base, [], family=None, base=base)

    alone = book_for(base, [], family=family, base=None)

    found = layers(specs)
    assert len(found) > 50
    for layer in found:
        name = alone.parse(layer.name)
        assert name is not None, layer.name
        assert name == from_base.parse(layer.name)
        if name.side == alone.side_for(name.component, "kohya"):
            assert alone.write(name, "kohya") == layer.name


def test_peft_loads_the_folder_and_merges_the_same(tmp_path):
    from peft import PeftModel

    models, tensors = diffusers_models.family("sd1")
    base = diffusers_models.save(tmp_path / "base.safetensors", tensors)
    chosen = {
        n: a for n, a in kohya(base, alphas=(2.0, 3.0)).items() if "attn" in n and "lora_unet" in n
    }
    chosen |= {n: a[:2] for n, a in chosen.items() if n.endswith(f"down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.{DOWN}")}  # fmt: skip
    chosen |= {n: a[:, :2] for n, a in chosen.items() if n.endswith(f"down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.{UP}")}  # fmt: skip
    lora = small.save(tmp_path / "l.safetensors", {n: np.array(a) for n, a in chosen.items()})

    made = lora_convert(lora, f"{tmp_path}/adapter/", to="peft", base=base)

    config = json.loads((made.out / "adapter_config.json").read_text("utf-8"))
    assert (config["r"], config["lora_alpha"] in (2, 3)) == (R, True)
    assert list(config["rank_pattern"].values()) == [2]
    unet = type(models["unet"]).from_config(models["unet"].config)
    unet.load_state_dict(
        {n.removeprefix("unet."): t for n, t in tensors.items() if n.startswith("unet.")}
    )
    merged = PeftModel.from_pretrained(unet, str(made.out)).merge_and_unload().state_dict()
    wanted = baked(base, lora, tmp_path / "x.safetensors", 1.0)
    for name, value in merged.items():
        assert np.abs(wanted[f"unet.{name}"] - value.numpy()).max(initial=0) < 1e-5, name
    ours = baked(base, made.out / "adapter_model.safetensors", tmp_path / "y.safetensors", 1.0)
    assert same(ours, wanted)


def test_a_folder_for_several_components_comes_back(tmp_path):
    _, tensors = diffusers_models.family("sd1")
    base = diffusers_models.save(tmp_path / "base.safetensors", tensors)
    lora = small.save(tmp_path / "l.safetensors", kohya(base))

    made = lora_convert(lora, f"{tmp_path}/adapter/", to="peft", base=base)
    back = lora_convert(made.out, tmp_path / "back.safetensors", to="kohya", base=base)

    assert sorted(p.name for p in made.out.iterdir()) == ["text_encoder", "unet"]
    assert same(small.load(back.out), small.load(lora))
    parts = [
        (made.out / part / "adapter_model.safetensors", 0.8) for part in ("unet", "text_encoder")
    ]
    both = small.load(lora_bake(base, parts, tmp_path / "both.safetensors").out)
    assert same(both, baked(base, lora, tmp_path / "x.safetensors"))
    with pytest.raises(UsageError, match="there already"):
        lora_convert(lora, f"{tmp_path}/adapter/", to="peft", base=base)
    lora_convert(lora, f"{tmp_path}/adapter/", to="peft", base=base, overwrite=True)


@pytest.fixture(scope="module")
def flux(tmp_path_factory):
    _, tensors = diffusers_models.family("flux")
    return diffusers_models.save(tmp_path_factory.mktemp("flux") / "base.safetensors", tensors)


def test_parts_with_factors_of_their_own_are_joined_side_by_side(flux, tmp_path):
    wide = diffusers_models.FLUX_WIDTH
    stem = "transformer.single_transformer_blocks.0.attn"
    lora = {}
    for i, part in enumerate(("to_q", "to_v")):  # to_k and proj_mlp are not in the file
        lora[f"{stem}.{part}.lora_A.weight"] = normal(R + i, wide)
        lora[f"{stem}.{part}.lora_B.weight"] = normal(wide, R + i)
    path = small.save(tmp_path / "l.safetensors", lora)

    made = lora_convert(path, tmp_path / "k.safetensors", to="kohya", base=flux)

    name = "lora_unet_single_blocks_0_linear1"
    shapes = {n: a.shape for n, a in small.load(made.out).items()}
    assert shapes == {f"{name}.{UP}": (7 * wide, 2 * R + 1), f"{name}.{DOWN}": (2 * R + 1, wide)}
    assert made.joined == 1
    wanted = baked(flux, path, tmp_path / "x.safetensors")
    assert same(baked(flux, made.out, tmp_path / "y.safetensors"), wanted)
    assert not same(wanted, small.load(flux))


def test_alpha_of_joined_parts_keeps_the_strength(flux, tmp_path):
    wide, stem = diffusers_models.FLUX_WIDTH, "transformer.transformer_blocks.0.attn"
    lora = {}
    for part in ("to_q", "to_k", "to_v"):
        lora[f"{stem}.{part}.lora_A.weight"] = normal(R, wide)
        lora[f"{stem}.{part}.lora_B.weight"] = normal(wide, R)
    stated = {
        "lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 3, "transformer.r": R})
    }
    path = small.save(tmp_path / "l.safetensors", lora, stated)

    made = lora_convert(path, tmp_path / "k.safetensors", to="kohya", base=flux)

    found = small.load(made.out)
    assert found["lora_unet_double_blocks_0_img_attn_qkv.alpha"] == 9
    wanted = baked(flux, path, tmp_path / "x.safetensors")
    assert same(baked(flux, made.out, tmp_path / "y.safetensors"), wanted)
    pattern = {"transformer.alpha_pattern": {"attn.to_k": 1}}
    stated = {"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 3} | pattern)}
    uneven = small.save(tmp_path / "u.safetensors", lora, stated)
    with pytest.raises(MismatchError, match="alpha / rank differ"):
        lora_convert(uneven, tmp_path / "n.safetensors", to="kohya", base=flux)


def test_a_layer_in_both_dialects_of_one_file_is_refused(flux, tmp_path):
    wide, lora = diffusers_models.FLUX_WIDTH, {}
    for name, rows in (
        ("lora_unet_double_blocks_0_img_attn_qkv", 3 * wide),
        ("transformer.transformer_blocks.0.attn.to_k", wide),
    ):
        lora |= {f"{name}.{UP}": normal(rows, R), f"{name}.{DOWN}": normal(R, wide)}
    path = small.save(tmp_path / "l.safetensors", lora)

    for to in ("kohya", "peft"):
        with pytest.raises(MismatchError, match="names of both dialects"):
            lora_convert(path, tmp_path / "o.safetensors", to=to, base=flux)


def test_dora_keeps_its_magnitudes_through_a_split(flux, tmp_path):
    wide = diffusers_models.FLUX_WIDTH
    module = "lora_unet_double_blocks_0_img_attn_qkv"
    lora = {
        f"{module}.{UP}": normal(3 * wide, R),
        f"{module}.{DOWN}": normal(R, wide),
        f"{module}.alpha": np.array(2, "f2"),
        f"{module}.dora_scale": np.abs(normal(3 * wide, 1)) + 1,
    }
    lora = {n: np.asarray(a, "f2") for n, a in lora.items()}
    path = small.save(tmp_path / "l.safetensors", lora)

    made = lora_convert(path, tmp_path / "p.safetensors", to="peft", base=flux)
    back = lora_convert(made.out, tmp_path / "k.safetensors", to="kohya", base=flux)

    stem = "base_model.model.transformer_blocks.0.attn"
    magnitudes = {n: a.shape for n, a in small.load(made.out).items() if "magnitude" in n}
    assert magnitudes == {f"{stem}.to_{x}.lora_magnitude_vector": (wide,) for x in "qkv"}
    assert same(small.load(back.out), lora)


def test_other_kinds_are_renamed_for_kohya_and_refused_for_the_others(tmp_path):
    parts = {
        f"hada_w{n}_{x}": normal(*s) for n in (1, 2) for x, s in (("a", (64, R)), ("b", (R, 64)))
    }
    kron = {"lokr_w1": normal(4, 4), "lokr_w2": normal(16, 16)}
    stem = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
    lora = {f"unet.{stem}.to_q.{p}": a for p, a in parts.items()}
    lora |= {f"lycoris_{stem.replace('.', '_')}_to_k.{p}": a for p, a in kron.items()}
    path = small.save(tmp_path / "l.safetensors", lora)

    made = lora_convert(path, tmp_path / "k.safetensors", to="kohya", family="sd1")

    key = f"lora_unet_{stem.replace('.', '_')}"
    assert set(small.load(made.out)) == {f"{key}_to_q.{p}" for p in parts} | {
        f"{key}_to_k.{p}" for p in kron
    }
    with pytest.raises(MismatchError) as error:
        lora_convert(path, tmp_path / "p.safetensors", to="peft", family="sd1")
    assert "LoHa (hada_w1_a" in str(error.value)
    assert "LoKr (lokr_w1, lokr_w2) has no name in peft's files" in str(error.value)
    assert not (tmp_path / "p.safetensors").exists()


def test_names_of_old_attention_processors_are_read(tmp_path):
    stem = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor"
    text = "text_encoder.text_model.encoder.layers.3.self_attn"
    lora = {
        f"unet.{stem}.to_out_lora.up.weight": normal(64, R),
        f"unet.{stem}.to_out_lora.down.weight": normal(R, 64),
        f"{text}.to_out_lora.up.weight": normal(64, R),
        f"{text}.to_out_lora.down.weight": normal(R, 64),
    }
    path = small.save(tmp_path / "l.safetensors", lora)

    made = lora_convert(path, tmp_path / "k.safetensors", to="kohya", family="sd1")

    modules = {n.partition(".")[0] for n in small.load(made.out)}
    assert modules == {
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0",
        "lora_te_text_model_encoder_layers_3_self_attn_out_proj",
    }


PAIR = {UP: normal(8, 2), DOWN: normal(2, 8)}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["lora_unet_nowhere_0_to_q"], "no layer of sd1"),
        (["lora_unet_conv_in_extra"], "no layer of sd1"),
        (
            ["lora_unet_mid_block_attentions_0_proj_in", "unet.mid_block.attentions.0.proj_in"],
            "too",
        ),
        (["lora_te_text_model_encoder_layers_0_mlp_fc3"], "no layer of sd1"),
    ],
)
def test_what_no_table_knows_is_refused(tmp_path, names, message):
    lora = {f"{name}.{end}": a for name in names for end, a in PAIR.items()}
    path = small.save(tmp_path / "l.safetensors", lora)

    with pytest.raises(MismatchError, match=message):
        lora_convert(path, tmp_path / "o.safetensors", to="diffusers", family="sd1")


@pytest.mark.parametrize(
    ("up", "down"), [((8, 2), (3, 8)), ((0, 2), (2, 8)), ((8, 0), (0, 8)), ((8, 2), (2,)), ((8,), (2, 8))]
)  # fmt: skip
def test_factors_that_make_nothing_are_refused(flux, tmp_path, up, down):
    stem = "lora_unet_double_blocks_0_img_attn_qkv"
    lora = {f"{stem}.{UP}": normal(*up), f"{stem}.{DOWN}": normal(*down)}
    path = small.save(tmp_path / "l.safetensors", lora)

    with pytest.raises(MismatchError, match="img_attn"):
        lora_convert(path, tmp_path / "o.safetensors", to="peft", base=flux)


def test_an_unknown_family_and_wrong_arguments_are_refused(tmp_path):
    path = small.save(tmp_path / "l.safetensors", {f"lora_unet_x.{e}": a for e, a in PAIR.items()})

    empty = small.save(tmp_path / "empty.safetensors", {})
    with pytest.raises(MismatchError, match="nothing in the file"):
        lora_convert(empty, tmp_path / "o.safetensors", to="peft", family="sd1")
    with pytest.raises(MismatchError, match="--family"):
        lora_convert(path, tmp_path / "o.safetensors", to="peft")
    with pytest.raises(UsageError, match="sdxl"):
        lora_convert(path, tmp_path / "o.safetensors", to="peft", family="sd9")
    with pytest.raises(UsageError, match="kohya, peft, diffusers"):
        lora_convert(path, tmp_path / "o.safetensors", to="comfy")
    with pytest.raises(UsageError, match="only PEFT"):
        lora_convert(path, f"{tmp_path}/o/", to="kohya")
    with pytest.raises(MismatchError, match="adapter_model"):
        lora_convert(Path(tmp_path), tmp_path / "o.safetensors", to="kohya", family="sd1")


def test_the_last_block_of_sd3_swaps_its_halves_where_it_is_the_last(tmp_path):
    lora = {}
    for number in (22, 23):
        stem = f"lora_unet_joint_blocks_{number}_context_block_adaLN_modulation_1"
        lora |= {f"{stem}.{UP}": normal(8, 2), f"{stem}.{DOWN}": normal(2, 1536)}
    path = small.save(tmp_path / "l.safetensors", lora)

    made = lora_convert(path, tmp_path / "o.safetensors", to="diffusers", family="sd3")

    found = small.load(made.out)
    ups = [
        found[f"transformer.transformer_blocks.{n}.norm1_context.linear.lora_B.weight"]
        for n in (22, 23)
    ]
    first, last = (a for n, a in lora.items() if n.endswith(UP))
    assert np.array_equal(ups[0], first)
    assert np.array_equal(ups[1], np.concatenate([last[4:], last[:4]]))


@pytest.mark.parametrize(
    ("alpha", "kept", "dtype"),
    [(8, "F16", "<f2"), (8, "I64", "<i8"), (2049, "F16", "<f4"), (0.1, "F32", "<f8"), (8, "odd", "<f4")],
)  # fmt: skip
def test_alpha_comes_back_in_its_dtype_if_that_can_hold_it(tmp_path, alpha, kept, dtype):
    stem = "unet.mid_block.attentions.0.proj_in"
    lora = {f"{stem}.lora_B.weight": normal(8, R), f"{stem}.lora_A.weight": normal(R, 8)}
    said = {
        "lora_adapter_metadata": json.dumps({"unet.lora_alpha": alpha}),
        "memcard.lora_alpha": json.dumps({"dtype": kept}),
    }
    path = small.save(tmp_path / "l.safetensors", lora, said)

    made = lora_convert(path, tmp_path / "k.safetensors", to="kohya", family="sd1")

    spec = open_file(made.out).specs["lora_unet_mid_block_attentions_0_proj_in.alpha"]
    raw = open_file(made.out).read("lora_unet_mid_block_attentions_0_proj_in.alpha")
    assert spec.shape == ()
    assert np.frombuffer(raw, dtype).tolist() == [alpha]
    assert "lora_adapter_metadata" not in open_file(made.out).metadata


def test_a_layer_made_larger_cannot_be_said_elsewhere(tmp_path):
    stem = "diffusion_model.input_blocks.0.0"
    lora = {f"{stem}.{end}": a for end, a in PAIR.items()}
    lora[f"{stem}.reshape_weight"] = np.array([8, 8])
    path = small.save(tmp_path / "l.safetensors", lora)

    with pytest.raises(MismatchError, match="makes its layer larger"):
        lora_convert(path, tmp_path / "o.safetensors", to="kohya", family="sd1")


def test_the_card_and_the_title_stay_those_of_the_lora(tmp_path):
    made = lora_convert("starter/lora_pixel", tmp_path / "o.safetensors", to="diffusers")

    before, after = (open_file(p).metadata for p in (locate("starter/lora_pixel"), made.out))
    assert after["memcard.card"] == before["memcard.card"]
    assert after["modelspec.title"] == before["modelspec.title"]
    assert json.loads(after["memcard.made"])["job"] == "lora_convert"


def test_the_same_file_gives_the_same_bytes(tmp_path):
    one, two = (
        lora_convert("starter/lora_pixel", tmp_path / f"{n}.safetensors", to="peft").out
        for n in (1, 2)
    )

    assert one.read_bytes() == two.read_bytes()


def test_published_names_of_sdxl_become_published_names_of_diffusers():
    nothing = type("Base", (), {"specs": {}, "metadata": {}})()
    book = book_for(nothing, [], family="sdxl", base=None)
    shapes = {
        book.parse(
            "lora_unet_" + name.removeprefix("unet.").removesuffix(".weight").replace(".", "_")
        ): shape
        for name, shape in published("sdxl-kohya").items()
        if name.startswith("unet.") and len(shape) > 1
    }

    made, faults = layouts(shapes, book, {"unet": "diffusers"})

    wanted = {
        name.removeprefix("unet.").removesuffix(".weight")
        for name, shape in published("sdxl-diffusers_unet_only").items()
        if len(shape) > 1
    }
    assert faults == []
    assert {layout.name.bare for layout in made} == wanted
    assert len(wanted) > 700


@pytest.mark.parametrize(
    ("modules", "family", "name"),
    [
        ({"input_blocks.4.1.transformer_blocks.0.attn2.to_k": (640, 2048)}, "sdxl",
         "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"),
        ({"up_blocks.1.attentions.2.transformer_blocks.0.attn2.to_v": (1280, 768)}, "sd1",
         "unet.up_blocks.1.attentions.2.transformer_blocks.0.attn2.to_v"),
        ({"up_blocks.1.attentions.2.transformer_blocks.0.attn2.to_v": (1280, 1024)}, "sd2",
         "unet.up_blocks.1.attentions.2.transformer_blocks.0.attn2.to_v"),
        ({"joint_blocks.3.context_block.mlp.fc1": (6144, 1536)}, "sd3",
         "transformer.transformer_blocks.3.ff_context.net.0.proj"),
        ({"double_blocks.3.img_mod.lin": (18432, 3072), "single_blocks.3.linear2": (3072, 15360)},
         "flux", "transformer.single_transformer_blocks.3.proj_out"),
    ],
)  # fmt: skip
def test_the_family_is_told_by_the_file(tmp_path, modules, family, name):
    lora = {n: np.zeros(shape, "f2") for n, shape in adapters.kohya(modules).items()}
    path = small.save(tmp_path / "l.safetensors", lora)

    made = lora_convert(path, tmp_path / "o.safetensors", to="diffusers")

    assert made.family == family
    assert {f"{name}.lora_A.weight", f"{name}.lora_B.weight"} <= set(open_file(made.out).specs)


def test_a_file_of_which_two_families_are_possible_is_not_guessed(tmp_path):
    modules = {"single_blocks.3.linear2": (3072, 15360)}
    lora = {n: np.zeros(shape, "f2") for n, shape in adapters.kohya(modules).items()}
    path = small.save(tmp_path / "l.safetensors", lora)

    with pytest.raises(MismatchError, match="fits flux and chroma"):
        lora_convert(path, tmp_path / "o.safetensors", to="diffusers")
    made = lora_convert(path, tmp_path / "o.safetensors", to="diffusers", family="flux")
    assert made.modules == 1


def test_peft_merges_dora_the_same(tmp_path):
    from peft import PeftModel

    models, tensors = diffusers_models.family("sd1")
    base = diffusers_models.save(tmp_path / "base.safetensors", tensors)
    chosen = {
        n: a
        for n, a in kohya(base, alphas=(2.0,)).items()
        if "down_blocks_0_attentions_0_transformer_blocks_0_attn1" in n or "0_resnets_0_conv1" in n
    }
    for name in [n for n in chosen if n.endswith(UP)]:
        shape = chosen[name].shape[0], *(1,) * (chosen[name].ndim - 1)
        chosen[name.replace(UP, "dora_scale")] = np.abs(normal(*shape)) + np.float16(1)
    lora = small.save(tmp_path / "l.safetensors", chosen)

    made = lora_convert(lora, f"{tmp_path}/adapter/", to="peft", base=base)

    unet = type(models["unet"]).from_config(models["unet"].config)
    unet.load_state_dict(
        {n.removeprefix("unet."): t for n, t in tensors.items() if n.startswith("unet.")}
    )
    merged = PeftModel.from_pretrained(unet, str(made.out)).merge_and_unload().state_dict()
    wanted, plain = baked(base, lora, tmp_path / "x.safetensors", 1.0), small.load(base)
    changed = 0
    for name, value in merged.items():
        assert np.abs(wanted[f"unet.{name}"] - value.numpy()).max(initial=0) < 1e-5, name
        changed += not np.array_equal(wanted[f"unet.{name}"], plain[f"unet.{name}"])
    assert changed >= 5
    back = lora_convert(made.out, tmp_path / "k.safetensors", to="kohya", base=base)
    assert same(small.load(back.out), chosen)


def test_dora_for_inputs_has_no_name_in_peft(tmp_path):
    stem = "lora_unet_mid_block_attentions_0_proj_in"
    lora = {f"{stem}.{UP}": normal(8, 2), f"{stem}.{DOWN}": normal(2, 6)}
    lora[f"{stem}.dora_scale"] = np.abs(normal(1, 6))
    path = small.save(tmp_path / "l.safetensors", lora)

    with pytest.raises(MismatchError, match="one magnitude for each input"):
        lora_convert(path, tmp_path / "o.safetensors", to="peft", family="sd1")
