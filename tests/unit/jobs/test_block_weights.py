"""Blocks of real files, and weights for them as people write them."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures.published import published
from fixtures.sd15 import shapes
from memcard.errors import UsageError
from memcard.jobs._block_presets import names, preset
from memcard.jobs._block_weights import block_labels, block_order, block_weights

UNET = "model.diffusion_model."
# As published, to 10 digits or more: rows of supermerger's mbwpresets.txt.
PUBLISHED = {
    "GRAD_V": "0,1,0.9166666667,0.8333333333,0.75,0.6666666667,0.5833333333,0.5,0.4166666667,"
    "0.3333333333,0.25,0.1666666667,0.0833333333,0,0.0833333333,0.1666666667,0.25,0.3333333333,"
    "0.4166666667,0.5,0.5833333333,0.6666666667,0.75,0.8333333333,0.9166666667,1.0",
    "FLAT_25": "0" + ",0.25" * 25,
    "WRAP12": "0,1,1,1,1,1,1,0,0,0,0,0,0,0,0,0,0,0,0,0,1,1,1,1,1,1",
    "MID12_50": "0,0,0,0,0,0,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0,0,0,0,0,0",
    "OUT12_5": "0,0,0,0,0,0,0,0,0,0,0,0,0,0.5,1,1,1,1,1,1,1,1,1,1,1,1",
    "RING08_SOFT": "0,0,0,0,0,0,0.5,1,1,1,0.5,0,0,0,0,0,0.5,1,1,1,0.5,0,0,0,0,0",
    "RING10_3": "0,0,0,0,0,0,0,1,1,1,1,1,0,0,0,1,1,1,1,1,0,0,0,0,0,0",
    "SMOOTHSTEP*3": "0,0,0.0151909722222222,0.0590277777777778,0.12890625,0.222222222222222,"
    "0.336371527777778,0.46875,0.616753472222222,0.777777777777778,0.94921875,0.871527777777778,"
    "0.687065972222222,0.5,0.312934027777778,0.128472222222222,0.0507812500000004,"
    "0.222222222222222,0.383246527777778,0.53125,0.663628472222223,0.777777777777778,0.87109375,"
    "0.940972222222222,0.984809027777777,1",
    "R_SMOOTHSTEP/4": "0,1,0.925925925925926,0.740740740740741,0.5,0.259259259259259,"
    "0.0740740740740742,0,0.0740740740740742,0.259259259259259,0.5,0.740740740740741,"
    "0.925925925925926,1,0.925925925925926,0.740740740740741,0.5,0.259259259259259,"
    "0.0740740740740742,0,0.0740740740740742,0.259259259259259,0.5,0.740740740740741,"
    "0.925925925925926,1",
    "COSINE": "0,1,0.995722430686905,0.982962913144534,0.961939766255643,0.933012701892219,"
    "0.896676670145617,0.853553390593274,0.80438071450436,0.75,0.691341716182545,0.62940952255126,"
    "0.565263096110026,0.5,0.434736903889974,0.37059047744874,0.308658283817455,0.25,"
    "0.195619285495639,0.146446609406726,0.103323329854382,0.0669872981077805,0.0380602337443566,"
    "0.0170370868554658,0.00427756931309475,0",
    "TRUE_CUBIC_HERMITE": "0,0,0.199031876929012,0.325761959876543,0.424641927083333,"
    "0.498456790123457,0.549991560570988,0.58203125,0.597360869984568,0.598765432098765,"
    "0.589029947916667,0.570939429012346,0.547278886959876,0.520833333333333,0.49438777970679,"
    "0.470727237654321,0.45263671875,0.442901234567901,0.444305796682099,0.459635416666667,"
    "0.491675106095678,0.543209876543211,0.617024739583333,0.715904706790124,0.842634789737655,1",
    "FAKE_REVERSE_CUBIC_HERMITE": "0,1,0.842423804012346,0.71508487654321,0.615234375,"
    "0.540123456790123,0.487003279320988,0.453125,0.435739776234568,0.432098765432099,0.439453125,"
    "0.455054012345679,0.476152584876543,0.5,0.523847415123457,0.544945987654321,0.560546875,"
    "0.567901234567901,0.564260223765432,0.546875,0.512996720679013,0.459876543209876,0.384765625,"
    "0.28491512345679,0.157576195987653,0",
    "ALL_B": "1" + ",1" * 25,
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_are_the_published_numbers(name):
    wanted = [float(text) for text in PUBLISHED[name].split(",")]

    assert preset(name) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("name", names())
def test_every_preset_has_26_weights_from_0_to_1(name):
    found = preset(name.lower())

    assert found is not None
    assert len(found) == 26
    assert all(-1e-12 <= weight <= 1 + 1e-12 for weight in found)


def test_an_unknown_preset_is_none():
    assert preset("GRAD_W") is None
    assert preset("REVERSE-SMOOTHSTEP") == preset("REVERSE_SMOOTHSTEP")


@pytest.mark.parametrize(
    ("keys", "count", "some"),
    [
        ("sd1-ldm", 26, ["IN11", "M00", "OUT11"]),
        ("sdxl-sgm", 20, ["IN08", "M00", "OUT08"]),
        ("flux-flux", 58, ["DOUBLE18", "SINGLE37"]),
        ("sd3-comfyui", 25, ["JOINT00", "JOINT23"]),
        ("sdxl-diffusers_unet_only", 20, ["IN08", "M00", "OUT08"]),
    ],
)
def test_real_files_have_the_blocks_people_count(keys, count, some):
    found = block_order(block_labels(published(keys)).values())

    assert len(found) == count
    assert found[0] == "BASE"
    assert set(some) <= set(found)


def test_diffusers_names_are_in_the_same_blocks_as_ldm_names():
    ldm = Counter(block_labels(published("sdxl-sgm")).values())
    diffusers = Counter(block_labels(published("sdxl-diffusers_unet_only")).values())

    del ldm["BASE"]
    assert ldm == diffusers


@pytest.mark.parametrize(
    ("name", "label"),
    [
        (f"{UNET}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight", "IN04"),
        (f"{UNET}middle_block.1.proj_in.weight", "M00"),
        (f"{UNET}output_blocks.11.0.in_layers.0.weight", "OUT11"),
        (f"{UNET}time_embed.0.weight", "IN00"),
        (f"{UNET}out.2.bias", "OUT11"),
        ("first_stage_model.encoder.down.0.block.0.conv1.weight", "BASE"),
        ("cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight", "BASE"),
    ],
)
def test_where_a_tensor_of_sd1_is(name, label):
    assert block_labels(shapes())[name] == label


def test_parts_of_other_models_in_diffusers_names_are_base():
    names = ["vae.encoder.down_blocks.0.resnets.0.conv1.weight", "unet.conv_in.weight",
             "unet.up_blocks.3.resnets.2.conv1.weight", "unet.down_blocks.0.downsamplers.0.conv.weight",
             "unet.up_blocks.0.upsamplers.0.conv.weight", "unet.mid_block.resnets.0.conv1.weight",
             "unet.conv_out.weight"]  # fmt: skip

    assert list(block_labels(names).values()) == [
        "BASE",
        "IN00",
        "OUT11",
        "IN03",
        "OUT02",
        "M00",
        "OUT11",
    ]


LABELS = block_labels(shapes())
IN04 = f"{UNET}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
TEXT = "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight"


@pytest.mark.parametrize(
    ("spec", "weight", "base"),
    [
        ("GRAD_V", 0.6666666667, 0.0),
        ("0.9" + ",0.25" * 25, 0.25, 0.9),
        ("0..1", 4 / 24, None),
        ("0..1..0", 8 / 24, None),
        ("0..1,BASE=0.2", 4 / 24, 0.2),
        ("IN04=0.3", 0.3, None),
        ("in03-05=0.3,BASE=1", 0.3, 1.0),
        ("IN*=0.1,/attn2/=0.9", 0.9, None),
        ("/attn2/=0.9,IN*=0.1", 0.1, None),
        ("/to_(q,|k)/=0.4", 0.4, None),
        ("*=0.6", 0.6, 0.6),
        ("M=0.5,OUT*=-1e-1", None, None),
    ],
)
def test_specs_give_the_weight_of_a_tensor(spec, weight, base):
    found = block_weights(spec, LABELS)

    assert found.get(IN04) == (None if weight is None else pytest.approx(weight, abs=1e-12))
    assert found.get(TEXT) == base


def test_a_preset_on_sdxl_keeps_the_blocks_of_the_same_name():
    labels = block_labels(published("sdxl-sgm"))

    found = {labels[name]: weight for name, weight in block_weights("RING08_5", labels).items()}

    table = preset("RING08_5")
    assert [found[f"IN{i:02d}"] for i in range(9)] == list(table[1:10])
    assert [found[f"OUT{i:02d}"] for i in range(9)] == list(table[14:23])


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("0.5,0.5", "2 weights, and this checkpoint has 26 blocks"),
        ("GRAD_W", "'GRAD_W' is no weight, gradient or preset"),
        ("IN99=1,OUT77=2", "'IN99' fits no tensor; 'OUT77' fits no tensor"),
        ("/(/=1", "no regular expression"),
        ("0..x", "'0..x' is no gradient"),
        ("IN04=much", "'IN04=much' is no weight"),
    ],
)
def test_what_cannot_be_read_is_refused_with_all_faults(spec, text):
    with pytest.raises(UsageError) as caught:
        block_weights(spec, LABELS)

    assert text in str(caught.value)


def test_a_checkpoint_without_blocks_is_refused():
    with pytest.raises(UsageError, match="no blocks"):
        block_weights("GRAD_V", block_labels(["a.weight", "b.weight"]))


def test_presets_on_a_transformer_are_refused():
    with pytest.raises(UsageError, match=r"26 weights, and this checkpoint has 58 .*for U-Nets"):
        block_weights("GRAD_V", block_labels(published("flux-flux")))


@settings(deadline=None)
@given(st.lists(st.sampled_from([*shapes(), *published("flux-flux")]), unique=True))
def test_any_names_have_labels_that_can_be_ordered(some):
    found = block_labels(some)

    assert list(found) == some
    assert block_order(found.values())[0] == "BASE"
