"""LoRA jobs: baking from files, and looking inside."""

import json

import numpy as np
import pytest

from fixtures import small
from memcard.errors import MismatchError, UsageError
from memcard.jobs.lora import lora_bake, open_with_loras
from memcard.jobs.lora_info import lora_info

RNG = np.random.default_rng(0)
UP, DOWN = RNG.standard_normal((12, 4)).astype("f4"), RNG.standard_normal((4, 10)).astype("f4")
KOHYA = {
    "lora_unet_mid_proj.lora_up.weight": UP,
    "lora_unet_mid_proj.lora_down.weight": DOWN,
    "lora_unet_mid_proj.alpha": np.array(2.0, "f4"),
}
PEFT = {
    "base_model.model.mid.proj.lora_B.weight": UP,
    "base_model.model.mid.proj.lora_A.weight": DOWN,
}


@pytest.fixture
def base(tmp_path):
    weight = RNG.standard_normal((12, 10)).astype("f4")
    card = {"memcard.card": json.dumps({"license": "MIT"}), "modelspec.prediction_type": "v"}
    return small.save(
        tmp_path / "base.safetensors", {"mid.proj.weight": weight, "n": np.arange(3)}, card
    )


def test_a_baked_lora_is_the_formula_and_names_its_parents(base, tmp_path):
    lora = small.save(tmp_path / "ink.safetensors", KOHYA)

    made = lora_bake(base, [(lora, 0.5)], tmp_path / "out.safetensors")

    weight = small.load(base)["mid.proj.weight"]
    expected = weight + 0.5 * 2.0 / 4 * (UP.astype("f8") @ DOWN)
    assert np.allclose(small.load(made.out)["mid.proj.weight"], expected, rtol=0, atol=1e-6)
    assert (made.tensors, made.computed) == (2, 1)
    found = json.loads(made.recipe)["node"]
    assert found["params"] == {
        "alphas": [],
        "blocks": "",
        "skip_unmatched": False,
        "strengths": [0.5],
    }


def test_the_result_is_still_the_kind_of_model_its_base_is(base, tmp_path):
    lora = small.save(tmp_path / "ink.safetensors", KOHYA)

    made = lora_bake(base, [(lora, 0.5)], tmp_path / "out.safetensors")

    from memcard.formats import open_file

    metadata = open_file(made.out).metadata
    card = json.loads(metadata["memcard.card"])
    assert metadata["modelspec.prediction_type"] == "v"
    assert card["title"] == "base + ink 0.5"
    assert card["license"] == "unknown"
    assert [p["license"] for p in card["made_from"]] == ["MIT", "unknown"]


@pytest.mark.parametrize("place", ["adapter_config.json", "metadata"])
def test_alpha_of_a_peft_adapter_is_found(base, tmp_path, place):
    stated = {"lora_adapter_metadata": '{"unet.lora_alpha": 8, "unet.r": 4}'}
    folder = tmp_path / "adapter"
    folder.mkdir()
    if place == "adapter_config.json":
        (folder / place).write_text('{"r": 4, "lora_alpha": 8}', "utf-8")
        stated = {}
    lora = small.save(folder / "adapter_model.safetensors", PEFT, stated)

    made = lora_bake(base, [(lora, 1.0)], tmp_path / "out.safetensors")

    expected = small.load(base)["mid.proj.weight"] + 2.0 * (UP.astype("f8") @ DOWN)
    assert np.allclose(small.load(made.out)["mid.proj.weight"], expected, rtol=0, atol=2e-6)


def test_opening_with_loras_gives_the_bits_that_baking_writes(base, tmp_path):
    lora = small.save(tmp_path / "ink.safetensors", KOHYA)
    made = lora_bake(base, [(lora, 0.5), (lora, -1.5)], tmp_path / "out.safetensors")

    virtual = open_with_loras(base, [(lora, 0.5), (lora, -1.5)])

    written = small.load(made.out)
    assert {n: bytes(virtual.read(n)) for n in virtual.specs} == {
        n: a.tobytes() for n, a in written.items()
    }
    assert virtual.metadata["modelspec.prediction_type"] == "v"
    virtual.close()
    plain = open_with_loras(base, [])
    assert plain.format == "safetensors"
    plain.close()


def test_several_alphas_are_not_guessed_between(base, tmp_path):
    stated = {"lora_adapter_metadata": '{"unet.lora_alpha": 8, "text_encoder.lora_alpha": 4}'}
    lora = small.save(tmp_path / "l.safetensors", PEFT, stated)

    with pytest.raises(MismatchError, match=r"8\.0, 4\.0"):
        lora_bake(base, [(lora, 1.0)], tmp_path / "out.safetensors")


def test_no_lora_is_refused(base, tmp_path):
    with pytest.raises(UsageError, match="no LoRA"):
        lora_bake(base, [], tmp_path / "out.safetensors")


def test_a_lora_for_another_model_leaves_no_file(base, tmp_path):
    other = {name.replace("mid_proj", "elsewhere"): array for name, array in KOHYA.items()}
    lora = small.save(tmp_path / "l.safetensors", other)

    with pytest.raises(MismatchError, match="lora_unet_elsewhere"):
        lora_bake(base, [(lora, 1.0)], tmp_path / "out.safetensors")

    assert not (tmp_path / "out.safetensors").exists()


def test_info_tells_rank_alpha_targets_words_and_misfits(base, tmp_path):
    metadata = {"ss_dataset_dirs": '{"10_ink style": {"n_repeats": 10}}'}
    extra = {"lora_te_gone.lora_up.weight": UP, "lora_te_gone.lora_down.weight": DOWN}
    lora = small.save(tmp_path / "l.safetensors", KOHYA | extra, metadata)

    facts = lora_info(lora, base=base)

    assert facts.ranks == {4: 2}
    assert facts.alphas == {2.0: 1, None: 1}
    assert facts.targets == 2
    assert facts.components == {"unet": 1, "text_encoder": 1}
    assert facts.trigger_words == ("ink style",)
    assert facts.unmatched == ("'lora_te_gone': no such layer in the base",)
    assert json.loads(json.dumps(facts.to_dict()))["alphas"] == {"2": 1, "rank": 1}


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"memcard.card": '{"trigger_words": ["a", "b"]}'}, ("a", "b")),
        ({"modelspec.trigger_phrase": "a, b"}, ("a", "b")),
        ({"memcard.card": "broken", "ss_dataset_dirs": "["}, ()),
    ],
    ids=["card", "modelspec", "broken"],
)
def test_trigger_words_are_read_where_they_stand(tmp_path, metadata, words):
    lora = small.save(tmp_path / "l.safetensors", KOHYA, metadata)

    assert lora_info(lora).trigger_words == words


def test_info_refuses_what_is_no_lora(base):
    with pytest.raises(MismatchError, match=r"mid\.proj\.weight"):
        lora_info(base)


def test_info_tells_kinds_and_whose_names_they_are(tmp_path):
    loha = {f"lora_unet_down_blocks_0_x.hada_w{n}_{p}": UP[:4] for n in (1, 2) for p in "ab"}
    dora = KOHYA | {"lora_unet_mid_proj.dora_scale": np.ones((12, 1), "f4")}
    lora = small.save(tmp_path / "l.safetensors", loha | dora | {"odd.thing": UP})

    facts = lora_info(lora)

    assert facts.kinds == {"LoHa": 1, "DoRA": 1}
    assert facts.dialect == "kohya"
    assert facts.unmatched == ("'odd.thing': not a part of any kind of LoRA that memcard knows",)
    assert facts.to_dict()["kinds"] == {"LoHa": 1, "DoRA": 1}


def test_blocks_are_part_of_the_recipe(base, tmp_path):
    lora = small.save(tmp_path / "ink.safetensors", KOHYA)

    made = lora_bake(base, [(lora, 1.0)], tmp_path / "o.safetensors", blocks=[("mid", 0.5)])

    plain = lora_bake(base, [(lora, 0.5)], tmp_path / "p.safetensors")
    assert json.loads(made.recipe)["node"]["params"]["blocks"] == "mid=0.5"
    assert np.array_equal(*(small.load(m.out)["mid.proj.weight"] for m in (made, plain)))
