"""Presets and lists of block strengths for LoRAs."""

import json
import re

import numpy as np
import pytest

from fixtures import diffusers_models, small
from memcard.errors import UsageError
from memcard.formats import open_file
from memcard.jobs._block_weights import block_labels
from memcard.jobs._lora_blocks import block_strengths, preset_names
from memcard.jobs.lora import lora_bake
from memcard.ops._lora_names import canonical, layers

LISTS = {
    17: "BASE,IN01,IN02,IN04,IN05,IN07,IN08,M00,OUT03,OUT04,OUT05,OUT06,OUT07,OUT08,OUT09,OUT10,OUT11",
    12: "BASE,IN04,IN05,IN07,IN08,M00,OUT00,OUT01,OUT02,OUT03,OUT04,OUT05",
}


def strength(rules, module):
    name = canonical(module)
    return next((number for pattern, number in rules if re.search(pattern, name)), None)


@pytest.mark.parametrize(
    ("preset", "numbers"),
    [
        ("INS", "1,1,1,1,0,0,0,0,0,0,0,0,0,0,0,0,0"),
        ("IND", "1,0,0,0,1,1,1,0,0,0,0,0,0,0,0,0,0"),
        ("INALL", "1,1,1,1,1,1,1,0,0,0,0,0,0,0,0,0,0"),
        ("MIDD", "1,0,0,0,1,1,1,1,1,1,1,1,0,0,0,0,0"),
        ("OUTD", "1,0,0,0,0,0,0,0,1,1,1,1,0,0,0,0,0"),
        ("OUTS", "1,0,0,0,0,0,0,0,0,0,0,0,1,1,1,1,1"),
        ("OUTALL", "1,0,0,0,0,0,0,0,1,1,1,1,1,1,1,1,1"),
        ("none", "0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0"),
        ("ALL0.5", ",".join(["0.5"] * 17)),
    ],
)
def test_a_preset_is_its_published_list(preset, numbers):
    assert block_strengths(preset) == block_strengths(numbers)
    assert preset.upper() in preset_names()


@pytest.mark.parametrize(("family", "count"), [("sd1", 26), ("sdxl", 20)])
@pytest.mark.parametrize("side", ["diffusers", "ldm"])
def test_modules_lie_in_the_blocks_that_merges_number(family, count, side):
    _, tensors = diffusers_models.family(family)
    specs = {n: small.spec_of(t.numpy()) for n, t in tensors.items() if t.is_floating_point()}
    if side == "ldm":
        from memcard.dialects import translate

        specs = {n: a.spec for n, a in translate(specs, "ldm", family=family).arrangements.items()}
    labels = block_labels(specs)
    rules = block_strengths(",".join(str(n / 100) for n in range(count)))
    order = ["BASE", *(f"IN{n:02d}" for n in range(count // 2 - 1)), "M00"]
    order += [f"OUT{n:02d}" for n in range(count // 2 - 1)]

    seen = set()
    for layer in layers(specs):
        label = labels[layer.place.runs[0].tensor]
        seen.add(label)
        assert strength(rules, layer.name) == order.index(label) / 100, layer.name
    assert len(seen) == count


@pytest.mark.parametrize("count", LISTS)
def test_blocks_that_a_short_list_does_not_name_get_nothing(count):
    rules = block_strengths(",".join(["1"] * count))

    for n in range(12):
        for kind, word in (("IN", "input"), ("OUT", "output")):
            named = f"{kind}{n:02d}" in LISTS[count]
            assert strength(rules, f"lora_unet_{word}_blocks_{n}_1_proj_in") == float(named)
    assert strength(rules, "lora_te_text_model_encoder_layers_0_mlp_fc1") == 1


def test_flux_has_a_number_for_each_of_its_blocks():
    rules = block_strengths(",".join(str(n) for n in range(61)))

    wanted = {
        "lora_te1_text_model_encoder_layers_0_mlp_fc1": 0,
        "lora_te3_encoder_block_0_layer_0_SelfAttention_q": 1,
        "lora_unet_img_in": 2,
        "transformer.time_text_embed.text_embedder.linear_1": 2,
        "lora_unet_double_blocks_0_img_attn_qkv": 3,
        "transformer.transformer_blocks.18.attn.to_q": 21,
        "lora_unet_single_blocks_0_linear1": 22,
        "transformer.single_transformer_blocks.37.proj_out": 59,
        "lora_unet_final_layer_linear": 60,
        "transformer.proj_out": 60,
    }
    assert {name: strength(rules, name) for name in wanted} == wanted


@pytest.mark.parametrize("text", ["SOMETHING", "1,0", "1,x,1", ""])
def test_what_is_neither_is_refused_with_what_there_is(text):
    with pytest.raises(UsageError, match=r"OUTALL.*12, 17, 20, 26, 61"):
        block_strengths(text)


def test_a_preset_reaches_the_weights_and_the_recipe(tmp_path):
    names = ("input_blocks.1.1.proj_in", "output_blocks.3.1.proj_in")
    weights = {f"model.diffusion_model.{n}.weight": np.ones((4, 4), "f4") for n in names}
    lora = {f"lora_unet_{n.replace('.', '_')}.diff": np.ones((4, 4), "f4") for n in names}
    base = small.save(tmp_path / "base.safetensors", weights)
    path = small.save(tmp_path / "l.safetensors", lora)

    made = lora_bake(
        base, [(path, 1.0)], tmp_path / "o.safetensors", blocks=block_strengths("OUTD")
    )

    found = small.load(made.out)
    assert [float(found[n].max()) for n in weights] == [1.0, 2.0]
    rules = json.loads(made.recipe)["node"]["params"]["blocks"].splitlines()
    assert len(rules) == 26
    assert open_file(made.out).metadata["memcard.recipe_id"] == made.recipe_id
