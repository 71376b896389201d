"""Extracting a LoRA: what comes out, baked again, is nearly the fine-tune."""

import json

import numpy as np
import pytest

from fixtures import small
from memcard.core.views import Rearranged
from memcard.dialects import translate
from memcard.errors import MismatchError, UsageError
from memcard.formats import open_file
from memcard.jobs.lora import lora_bake
from memcard.jobs.lora_extract import lora_extract
from memcard.jobs.lora_info import lora_info

BASE = "starter"
TUNED = "starter/finetune_neon"


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {
        "a.weight": (40, 30),
        "c.weight": (20, 8, 3, 3),
        "d.weight": (16, 24),
        "a.bias": (40,),
    }
    return {n: (rng.standard_normal(s) * 0.1).astype("f4") for n, s in shapes.items()}


def tuned(base, rank=3):
    """Fine-tune ``a`` and ``c`` by changes of a known rank; leave ``d``; move a bias."""
    rng, made = np.random.default_rng(1), dict(base)
    for name in ("a.weight", "c.weight"):
        shape = base[name].shape
        wide = int(np.prod(shape[1:]))
        change = rng.standard_normal((shape[0], rank)) @ rng.standard_normal((rank, wide))
        made[name] = (base[name] + 0.01 * change.reshape(shape)).astype("f4")
    made["a.bias"] = base["a.bias"] + 1
    return made


@pytest.fixture
def pair(tmp_path):
    base = arrays()
    return (
        small.save(tmp_path / "base.safetensors", base),
        small.save(tmp_path / "tuned.safetensors", tuned(base)),
    )


def test_a_change_of_that_rank_comes_back_whole(pair, tmp_path):
    made = lora_extract(*pair, tmp_path / "lora.safetensors", rank=3, dtype="F32")
    baked = lora_bake(pair[0], [(made.out, 1.0)], tmp_path / "again.safetensors")

    got, wanted = small.load(baked.out), small.load(pair[1])
    for name in ("a.weight", "c.weight", "d.weight"):
        assert np.abs(got[name] - wanted[name]).max() < 1e-6
    assert [(x.name, x.rank) for x in made.layers] == [("lora_unet_a", 3), ("lora_unet_c", 3)]
    assert made.error < 1e-5
    assert made.unchanged == 1


def test_what_no_lora_holds_is_named(pair, tmp_path):
    made = lora_extract(*pair, tmp_path / "lora.safetensors", rank=3)

    assert made.left_out == ("1 tensors differ and are no layer of a LoRA: 'a.bias'",)


def test_the_error_it_states_is_that_of_the_file(pair, tmp_path):
    made = lora_extract(*pair, tmp_path / "lora.safetensors", rank=2, dtype="F16")

    lora, base, wanted = small.load(made.out), small.load(pair[0]), small.load(pair[1])
    change = wanted["a.weight"].astype("f8") - base["a.weight"]
    product = lora["lora_unet_a.lora_up.weight"].astype("f8") @ lora["lora_unet_a.lora_down.weight"]
    error = np.linalg.norm(change - product) / np.linalg.norm(change)
    assert made.layers[0].error == pytest.approx(error, rel=1e-3)
    assert 0.05 < error < 1


def test_energy_picks_the_rank_layer_by_layer(tmp_path):
    base = arrays()
    one = small.save(tmp_path / "base.safetensors", base)
    two = tuned(base, rank=3)
    two["a.weight"] = tuned(base, rank=1)["a.weight"]
    other = small.save(tmp_path / "tuned.safetensors", two)

    made = lora_extract(one, other, tmp_path / "l.safetensors", rank=16, energy=0.9999)

    assert {x.name: x.rank for x in made.layers} == {"lora_unet_a": 1, "lora_unet_c": 3}
    assert open_file(made.out).metadata["ss_network_dim"] == "Dynamic"


def test_the_same_inputs_give_the_same_bytes(pair, tmp_path):
    first, again = (
        lora_extract(*pair, tmp_path / f"{i}.safetensors", rank=2).out for i in range(2)
    )
    assert first.read_bytes() == again.read_bytes()


def test_a_real_fine_tune_is_caught_and_its_names_are_kohyas(tmp_path):
    made = lora_extract(BASE, TUNED, tmp_path / "neon.safetensors", rank=64)
    facts = lora_info(made.out, base=BASE)

    assert made.error < 0.35
    assert (facts.dialect, facts.family, facts.unmatched) == ("kohya", "starter", ())
    assert facts.components == {"unet": len(made.layers)}
    assert all(x.name.startswith("lora_unet_") for x in made.layers)
    assert any(x.name.startswith("lora_unet_up_blocks_1_attentions_") for x in made.layers)


def test_the_file_says_what_it_is_made_of(tmp_path):
    made = lora_extract(BASE, TUNED, tmp_path / "neon.safetensors", rank=4)

    metadata = open_file(made.out).metadata
    said = json.loads(metadata["memcard.made"])
    assert metadata["ss_network_dim"] == "4"
    assert metadata["ss_network_module"] == "networks.lora"
    assert said["job"] == "lora_extract"
    assert said["inputs"][0]["name"] == "starter"
    assert all(len(i["sha256"]) == 64 for i in said["inputs"])
    assert str(tmp_path) not in json.dumps(dict(metadata))


def test_the_tune_may_be_in_the_other_dialect(tmp_path):
    from memcard.jobs.resolve import resolve

    whole = resolve(TUNED)
    view = Rearranged(whole, translate(whole.specs, "diffusers").arrangements)
    other = small.save(tmp_path / "d.safetensors", {n: small.array_of(view, n) for n in view.specs})
    whole.close()

    plain = lora_extract(BASE, TUNED, tmp_path / "a.safetensors", rank=4)
    across = lora_extract(BASE, other, tmp_path / "b.safetensors", rank=4)

    one, two = small.load(plain.out), small.load(across.out)
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[n], two[n]) for n in one)


def test_two_equal_checkpoints_have_no_lora_between_them(pair, tmp_path):
    with pytest.raises(MismatchError, match="no layer differs"):
        lora_extract(pair[0], pair[0], tmp_path / "l.safetensors")

    assert not (tmp_path / "l.safetensors").exists()


def test_values_that_are_not_finite_are_refused_by_name(pair, tmp_path):
    wild = small.load(pair[1])
    wild["a.weight"] = np.full_like(wild["a.weight"], np.nan)
    other = small.save(tmp_path / "wild.safetensors", wild)

    with pytest.raises(MismatchError, match="lora_unet_a"):
        lora_extract(pair[0], other, tmp_path / "l.safetensors")


def test_checkpoints_without_a_common_layer_are_refused(pair, tmp_path):
    other = small.save(tmp_path / "o.safetensors", {"z.weight": np.ones((3, 3), "f4")})

    with pytest.raises(MismatchError, match="no matrix or convolution in common"):
        lora_extract(pair[0], other, tmp_path / "l.safetensors")


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"rank": 0}, "at least 1"),
        ({"energy": 1.5}, "a share"),
        ({"dtype": "I8"}, "F16, BF16, F32"),
    ],
    ids=str,
)
def test_arguments_out_of_range_are_refused(pair, tmp_path, wrong, text):
    with pytest.raises(UsageError, match=text):
        lora_extract(*pair, tmp_path / "l.safetensors", **wrong)


def test_a_file_that_is_there_stays(pair, tmp_path):
    out = tmp_path / "l.safetensors"
    out.write_bytes(b"mine")

    with pytest.raises(UsageError, match="is there already"):
        lora_extract(*pair, out)

    assert out.read_bytes() == b"mine"
