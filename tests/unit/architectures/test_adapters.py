"""LoRA and its relatives: kind, dialect, and the family they are made for."""

import pytest

from fixtures.adapters import (
    BOTH,
    RANK,
    TRANSFORMERS,
    attention,
    kohya,
    ldm_attention,
    lycoris,
    named,
    peft_unet,
)
from fixtures.unets import Shapes, diffusers_unet
from memcard.architectures import ARCHITECTURES, components, identify
from memcard.architectures._adapters import RULES
from memcard.core.architecture import Identity
from memcard.core.tensors import DTYPES, Spec, Specs
from memcard.jobs.resolve import resolve

UNETS = ("sd1", "sd2", "sdxl", "sdxl_refiner")


def specs_of(shapes: Shapes) -> Specs:
    return {name: Spec(DTYPES["F16"], shape) for name, shape in shapes.items()}


def judged(shapes: Shapes, **metadata: str) -> Identity:
    return identify(specs_of(shapes), metadata)


@pytest.mark.parametrize("family", UNETS)
@pytest.mark.parametrize("layout", ["ldm", "diffusers"])
def test_kohyas_lora_of_a_unet_is_known_in_both_layouts(family: str, layout: str) -> None:
    modules = ldm_attention(family) if layout == "ldm" else attention(diffusers_unet(family))
    found = judged(kohya(modules))

    assert (found.kind, found.architecture, found.dialect) == ("lora", family, "kohya")
    assert found.variant == f"LoRA, rank {RANK}"
    assert found.missing == (f"base model: {ARCHITECTURES[family].title}",)
    assert list(found.components) == ["unet"]


@pytest.mark.parametrize("family", UNETS)
def test_what_peft_makes_of_diffusers_own_unet_is_known(family: str) -> None:
    bare = peft_unet(family)
    for prefix, dialect in (("unet.", "diffusers"), ("base_model.model.", "peft"), ("", None)):
        found = judged({prefix + name: shape for name, shape in bare.items()})

        assert (found.kind, found.architecture, found.dialect) == ("lora", family, dialect)


def test_comfyuis_names_are_known() -> None:
    found = judged(named(ldm_attention("sdxl"), "diffusion_model."))

    assert (found.architecture, found.dialect) == ("sdxl", "comfyui")


def test_old_attention_processors_are_known() -> None:
    shapes: Shapes = {}
    for module, (out, wide) in attention(diffusers_unet("sd1")).items():
        block, _, leaf = module.removesuffix(".0").rpartition(".")
        shapes[f"{block}.processor.{leaf}_lora.down.weight"] = (4, wide)
        shapes[f"{block}.processor.{leaf}_lora.up.weight"] = (out, 4)
    found = judged(shapes)

    assert (found.kind, found.architecture) == ("lora", "sd1")
    assert found.dialect == "attention processors"


@pytest.mark.parametrize("kind", ["LoHa", "LoKr"])
def test_lycoris_kinds_are_named(kind: str) -> None:
    found = judged(lycoris(ldm_attention("sdxl"), kind))

    assert (found.kind, found.architecture) == ("lora", "sdxl")
    assert found.variant == kind


def test_dora_and_mixed_ranks_are_named() -> None:
    shapes = kohya(ldm_attention("sd1"))
    first = next(n for n in shapes if n.endswith("lora_down.weight"))
    shapes |= {
        first: (4, shapes[first][1]),
        first.replace("lora_down.weight", "dora_scale"): (320, 1),
    }

    assert judged(shapes).variant == "DoRA, ranks 4 to 16"


@pytest.mark.parametrize("family", TRANSFORMERS)
@pytest.mark.parametrize("prefix", ["diffusion_model.", "transformer.", "kohya"])
def test_a_lora_of_a_transformer_is_known(family: str, prefix: str) -> None:
    modules = TRANSFORMERS[family]
    found = judged(kohya(modules) if prefix == "kohya" else named(modules, prefix))

    assert (found.kind, found.architecture) == ("lora", family)


@pytest.mark.parametrize("families", BOTH)
def test_what_fits_two_families_stays_open_unless_the_metadata_says(families) -> None:
    shapes = kohya(BOTH[families])

    assert (judged(shapes).architecture, judged(shapes).candidates) == (None, families)
    for family, said in (("chroma", "chroma"), ("flux", "flux1"), ("wan22", "wan2.2")):
        if family in families:
            found = judged(shapes, ss_base_model_version=said)
            assert found.architecture == family
            assert f"metadata ss_base_model_version says {said!r}" in found.evidence


def test_metadata_cannot_make_another_family_of_it() -> None:
    found = judged(kohya(ldm_attention("sd1")), ss_base_model_version="sdxl_base_v1-0")

    assert found.architecture == "sd1"


def test_text_encoders_are_counted_apart() -> None:
    one = {"text_model.encoder.layers.0.self_attn.q_proj": (768, 768)}
    two = {"text_model.encoder.layers.0.self_attn.q_proj": (1280, 1280)}
    shapes = kohya(ldm_attention("sdxl")) | kohya(one, "lora_te1_") | kohya(two, "lora_te2_")
    found = judged(shapes)

    assert set(found.components) == {"unet", "text_encoder", "text_encoder_2"}
    assert set(components(specs_of(shapes)).values()) == set(found.components)
    assert judged(kohya(one, "lora_te1_") | kohya(two, "lora_te2_")).architecture == "sdxl"
    assert judged(kohya(one, "lora_te_")).architecture == "sd1"


def test_v_parameterization_in_the_metadata_is_told() -> None:
    found = judged(kohya(ldm_attention("sdxl")), ss_v_parameterization="True")

    assert found.prediction == "v_prediction"
    assert found.prediction_evidence == ("metadata ss_v_parameterization is true",)


def test_a_lora_of_nothing_known_is_a_lora_of_unknown_base() -> None:
    found = judged(kohya({"some.where": (10, 20)}))

    assert (found.kind, found.architecture, found.candidates, found.missing) == (
        *("lora", None, ()),
        (),
    )


def test_the_loras_of_the_starter_are_its_own() -> None:
    checkpoint = resolve("starter/lora_pixel")
    found = identify(checkpoint.specs, checkpoint.metadata)
    checkpoint.close()

    assert (found.kind, found.architecture) == ("lora", "starter")


def test_a_checkpoint_with_a_few_factors_in_it_is_no_lora() -> None:
    shapes = diffusers_unet("sd1") | {"mid.lora_A.weight": (4, 8), "mid.lora_B.weight": (8, 4)}

    assert judged(shapes).kind == "denoiser"


def test_a_model_with_peft_still_inside_is_no_lora() -> None:
    shapes = named({"to_q": (8, 8)}, "") | {"to_q.base_layer.weight": (8, 8)}

    assert judged(shapes).kind == "unknown"


def test_every_rule_names_a_family_that_is_there() -> None:
    assert {rule.family for rule in RULES} <= set(ARCHITECTURES)
