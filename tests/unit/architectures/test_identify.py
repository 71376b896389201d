"""What a file is: whole checkpoints, what they lack, what they predict, how they are packed."""

import json
import time
from typing import Any

import pytest

from fixtures.published import NAMES, published
from fixtures.unets import (
    Shapes,
    cascade,
    diffusers_unet,
    ldm_unet,
    motion_module,
    svd_ldm_part,
)
from memcard.architectures import ARCHITECTURES, candidates, components, identify
from memcard.architectures._names import MOST
from memcard.core.architecture import Identity
from memcard.core.tensors import DTYPES, QUANTIZED, Spec, Specs

LDM = "model.diffusion_model."
SCHEDULER = "diffusers/scheduler/scheduler_config.json"


def specs_of(shapes: Shapes, prefix: str = "", dtype: str = "F16") -> Specs:
    return {prefix + name: Spec(DTYPES[dtype], shape) for name, shape in shapes.items()}


def judged(shapes: Shapes, metadata: dict[str, str] | None = None, prefix: str = "") -> Identity:
    return identify(specs_of(shapes, prefix), metadata or {})


@pytest.mark.parametrize("name", NAMES)
def test_published_lists_are_named_by_one_family(name: str) -> None:
    found = judged(published(name))

    assert (found.architecture, found.candidates) == (NAMES[name], (NAMES[name],))
    assert found.kind == ("denoiser" if "unet_only" in name else "checkpoint")


@pytest.mark.parametrize("name", [n for n in NAMES if "unet_only" not in n])
def test_a_whole_checkpoint_lacks_nothing(name: str) -> None:
    assert judged(published(name)).missing == ()


def test_the_parts_of_sdxl_are_named_as_diffusers_names_them() -> None:
    found = judged(published("sdxl-sgm"))

    what = {name: part.what for name, part in found.components.items()}
    assert what["unet"] == "Stable Diffusion XL"
    assert what["text_encoder"] == "CLIP-L, 12 layers"
    assert what["text_encoder_2"] == "CLIP-G, 32 layers"
    assert what["vae"] == "SD or SDXL, 4 channels"
    assert next(iter(found.components)) == "unet"
    assert found.components["unet"].parameters == 2_567_463_684  # as published
    assert found.components["unet"].nbytes == 2 * 2_567_463_684
    assert found.components["unet"].dtypes == {"F16": 2 * 2_567_463_684}


def test_three_text_encoders_keep_their_order_whatever_order_the_file_has() -> None:
    found = judged(published("sd3-comfyui"))

    texts = {n: part.what for n, part in found.components.items() if n.startswith("text")}
    assert list(texts) == ["text_encoder", "text_encoder_2", "text_encoder_3"]
    assert [what.split(",")[0] for what in texts.values() if what] == ["CLIP-L", "CLIP-G", "T5-XXL"]


@pytest.mark.parametrize("name", NAMES)
def test_every_tensor_has_a_component_and_identify_lists_them_all(name: str) -> None:
    specs = specs_of(published(name, optional=True))
    parts = components(specs)
    found = identify(specs, {})

    assert parts.keys() == specs.keys()
    assert set(parts.values()) == set(found.components)
    for part, told in found.components.items():
        assert told.parameters == sum(specs[n].elements for n in parts if parts[n] == part)
    assert "rest" not in found.components


def test_a_bare_unet_says_what_to_put_beside_it() -> None:
    found = judged(published("sdxl-diffusers_unet_only"))

    assert (found.kind, found.dialect) == ("denoiser", "diffusers")
    assert found.missing == (
        "text encoder: CLIP-L",
        "text encoder: CLIP-G",
        "VAE: SD or SDXL, 4 channels",
    )


def test_a_checkpoint_without_its_second_encoder_says_which() -> None:
    shapes = {n: s for n, s in published("sdxl-sgm").items() if ".embedders.1." not in n}

    assert judged(shapes).missing == ("text encoder: CLIP-G",)


def layers(pattern: str, count: int, *shape: int) -> Shapes:
    return {pattern.format(n): shape for n in range(count)}


def open_clip(prefix: str, width: int, count: int) -> Shapes:
    return {f"{prefix}token_embedding.weight": (49408, width)} | layers(
        prefix + "transformer.resblocks.{}.attn.in_proj_weight", count, 3 * width, width
    )


def open_vision(prefix: str) -> Shapes:
    stem = {f"{prefix}conv1.weight": (1280, 3, 14, 14), f"{prefix}class_embedding": (1280,)}
    return stem | layers(prefix + "transformer.resblocks.{}.attn.in_proj_weight", 32, 3840, 1280)


KL = {n: s for n, s in published("sd1-ldm").items() if n.startswith("first_stage_model.")}
STAGE_A = {"vqgan.vquantizer.codebook.weight": (8192, 4), "vqgan.in_block.1.weight": (48, 12, 1, 1)}


def denoiser(prefix: str, shapes: Shapes) -> Shapes:
    return {prefix + name: shape for name, shape in shapes.items()}


WHOLE: dict[str, tuple[Shapes, tuple[str, str | None], tuple[str, ...]]] = {
    "SD 2": (
        denoiser(LDM, ldm_unet("sd2")) | KL | open_clip("cond_stage_model.model.", 1024, 23),
        ("sd2", None),
        (),
    ),
    "unCLIP": (
        denoiser(LDM, ldm_unet("sd2/unCLIP-H"))
        | KL
        | open_clip("cond_stage_model.model.", 1024, 23)
        | open_vision("embedder.model.visual."),
        ("sd2", "unCLIP-H"),
        (),
    ),
    "unCLIP without its eyes": (
        denoiser(LDM, ldm_unet("sd2/unCLIP-H"))
        | KL
        | open_clip("cond_stage_model.model.", 1024, 23),
        ("sd2", "unCLIP-H"),
        ("image encoder: CLIP-H vision",),
    ),
    "refiner": (
        denoiser(LDM, ldm_unet("sdxl_refiner"))
        | KL
        | open_clip("conditioner.embedders.0.model.", 1280, 32),
        ("sdxl_refiner", None),
        (),
    ),
    "SVD": (
        denoiser(LDM, svd_ldm_part())
        | open_vision("conditioner.embedders.0.open_clip.model.visual.")
        | {"conditioner.embedders.3.encoder.encoder.conv_in.weight": (128, 3, 3, 3)}
        | {"first_stage_model.decoder.up.0.block.0.time_stack.in_layers.2.weight": (1,)},
        ("svd", "image to video"),
        (),
    ),
    "Cascade B in a folder": (
        denoiser("decoder.", cascade("B")) | STAGE_A,
        ("stable_cascade", "stage B, 1.5B"),
        ("text encoder: CLIP-G", "base model: Stable Cascade stage C"),
    ),
    "the wrong text encoder": (
        denoiser(LDM, ldm_unet("sd2")) | KL | open_clip("cond_stage_model.model.", 1280, 32),
        ("sd2", None),
        ("text encoder: OpenCLIP-H",),
    ),
}


@pytest.mark.parametrize("what", WHOLE)
def test_whole_checkpoints_say_what_they_are_and_lack(what: str) -> None:
    shapes, told, missing = WHOLE[what]
    found = judged(shapes)

    assert found.kind == "checkpoint"
    assert (found.architecture, found.variant) == told
    assert found.missing == missing


def test_half_of_cascade_asks_for_the_other_half() -> None:
    assert "base model: Stable Cascade stage B" in judged(cascade("C")).missing


def test_a_motion_module_is_no_checkpoint() -> None:
    found = judged(motion_module("v2"))

    assert (found.kind, found.architecture) == ("motion_module", "animatediff")
    assert found.missing == ("base model: Stable Diffusion 1.x",)


def test_ema_beside_the_raw_weights_is_told_and_kept_apart() -> None:
    raw = ldm_unet("sd1")
    ema = {"model_ema.diffusion_model" + n.replace(".", ""): s for n, s in raw.items()}
    found = judged({**{LDM + n: s for n, s in raw.items()}, **ema, "model_ema.decay": ()})

    assert found.ema
    assert found.components["ema"].parameters == found.components["unet"].parameters + 1
    assert not judged(raw, prefix=LDM).ema


def test_a_folder_with_ema_copies_is_told() -> None:
    shapes = {f"unet.{n}": s for n, s in diffusers_unet("sd1").items()}
    shapes |= {f"unet_ema.{n}": s for n, s in diffusers_unet("sd1").items()}
    found = judged(shapes)

    assert (found.architecture, found.ema) == ("sd1", True)


def test_an_ema_alone_says_so() -> None:
    ema = {n.replace(".", ""): s for n, s in ldm_unet("sd1").items()}
    found = judged(ema, prefix="model_ema.diffusion_model")

    assert (found.architecture, found.ema) == ("sd1", True)
    assert "the denoiser's only weights are an EMA's" in found.evidence


XL = {LDM + name: shape for name, shape in ldm_unet("sdxl").items()}
MARKED: dict[str, tuple[Shapes, dict[str, str], str | None]] = {
    "nothing": (XL, {}, "epsilon"),
    "v_pred": (XL | {"v_pred": ()}, {}, "v_prediction"),
    "edm_mean": (XL | {"edm_mean": (4,), "edm_std": (4,)}, {}, "edm"),
    "edm_vpred": (XL | {"edm_vpred.sigma_max": ()}, {}, "edm"),
    "ModelSpec": (XL, {"modelspec.prediction_type": "v"}, "v_prediction"),
    "ModelSpec, SD 2": (
        ldm_unet("sd2"),
        {"modelspec.architecture": "stable-diffusion-v2-768-v"},
        "v_prediction",
    ),
    "kohya, epsilon": (ldm_unet("sd2"), {"ss_v_parameterization": "False"}, "epsilon"),
    "kohya, zero SNR": (XL, {"ss_zero_terminal_snr": "True"}, "epsilon"),
    "ComfyUI": (XL, {"modelspec.predict_key": "epsilon"}, "epsilon"),
    "kohya": (XL, {"ss_v_parameterization": "True"}, "v_prediction"),
    "scheduler": (XL, {SCHEDULER: json.dumps({"prediction_type": "v_prediction"})}, "v_prediction"),
    "EDM scheduler": (XL, {SCHEDULER: '{"_class_name": "EDMEulerScheduler"}'}, "edm"),
    "flow scheduler": (
        XL,
        {SCHEDULER: '{"_class_name": "FlowMatchEulerDiscreteScheduler"}'},
        "flow",
    ),
    "broken scheduler": (XL, {SCHEDULER: "{"}, "epsilon"),
    "SD 2": (ldm_unet("sd2"), {}, None),
    "SD 2, told": (ldm_unet("sd2"), {"prediction_type": "v_prediction"}, "v_prediction"),
    "SD 2 inpainting": (ldm_unet("sd2/inpainting"), {}, "epsilon"),
    "SD 2 unCLIP": (ldm_unet("sd2/unCLIP-H"), {}, "v_prediction"),
}


@pytest.mark.parametrize("case", MARKED)
def test_what_it_predicts_is_told_with_the_evidence(case: str) -> None:
    shapes, metadata, kind = MARKED[case]
    found = judged(shapes, metadata)

    assert found.prediction == kind
    assert bool(found.prediction_evidence) == (kind is not None)


def test_a_marker_beats_metadata_and_the_disagreement_is_told() -> None:
    found = judged(XL | {"v_pred": ()}, {"modelspec.prediction_type": "epsilon"})

    assert found.prediction == "v_prediction"
    assert any("these disagree" in fact for fact in found.prediction_evidence)


def test_models_that_predict_otherwise_are_called_what_people_call_them() -> None:
    assert judged(XL).variant is None
    assert judged(XL | {"v_pred": ()}).variant == "v-prediction"
    assert judged(XL | {"edm_mean": (4,), "edm_std": (4,)}).variant == "EDM as Playground 2.5"
    assert judged(XL | {"edm_vpred.sigma_max": ()}).variant == "EDM as CosXL"


def test_what_it_makes_is_told() -> None:
    assert judged(XL).modality == "image"
    assert judged(svd_ldm_part()).modality == "video"
    assert judged({"weight": (3, 4)}).modality is None


def test_zero_terminal_snr_is_told() -> None:
    found = judged(XL | {"v_pred": (), "ztsnr": ()})

    assert found.variant == "v-prediction, zero terminal SNR"
    assert any("zero terminal SNR" in fact for fact in found.prediction_evidence)
    rescaled = judged(XL, {SCHEDULER: '{"rescale_betas_zero_snr": true}'})
    assert any("zero terminal SNR" in fact for fact in rescaled.prediction_evidence)


def with_scales(end: str, dtype: str, beside: str) -> Specs:
    packed = {
        name: Spec(DTYPES[dtype], spec.shape) if len(spec.shape) == 2 else spec
        for name, spec in specs_of(ldm_unet("sdxl")).items()
    }
    extra = {
        name.removesuffix("weight") + end: Spec(DTYPES[beside], ())
        for name, spec in packed.items()
        if len(spec.shape) == 2
    }
    return packed | extra


PACKED: dict[str, Specs] = {
    "fp8 e4m3": specs_of(ldm_unet("sdxl"), dtype="F8_E4M3"),
    "fp8 e5m2": specs_of(ldm_unet("sdxl"), dtype="F8_E5M2"),
    "scaled fp8 e4m3": with_scales("scale_weight", "F8_E4M3", "F32"),
    "bitsandbytes int8": with_scales("SCB", "I8", "F32"),
}


@pytest.mark.parametrize("what", PACKED)
def test_packed_weights_are_named_and_change_nothing_else(what: str) -> None:
    found = identify(PACKED[what], {})

    assert (found.architecture, found.quantization) == ("sdxl", what)


BESIDE = {
    "SVDQuant int4": {"w.qweight": (9, 9), "w.smooth_factor": (9,)},
    "GPTQ or AWQ": {"w.qweight": (9, 9), "w.qzeros": (9,)},
    "bitsandbytes FP4": {"w.weight": (9, 1), "w.weight.quant_state.bitsandbytes__fp4": (9,)},
    "quanto": {"w.weight._data": (9, 9), "w.weight._scale": (9,)},
}


@pytest.mark.parametrize("what", BESIDE)
def test_what_lies_beside_the_weights_names_the_packing(what: str) -> None:
    assert judged(BESIDE[what]).quantization == what


def test_types_of_less_than_a_byte_and_shared_scales_are_named() -> None:
    fp4 = {"w.weight": Spec(DTYPES["F4"], (4, 32))}
    scales = {"w.weight_scale": Spec(DTYPES["F8_E8M0"], (4, 1))}

    assert identify(fp4, {}).quantization == "F4"
    assert identify(fp4 | scales, {}).quantization == "F4, MX block scales"


def nf4(shapes: Shapes) -> Specs:
    """As bitsandbytes writes it: matrices flat, two values a byte, with what unpacks them beside."""
    found: dict[str, Spec] = {}
    for name, shape in shapes.items():
        if len(shape) != 2 or not name.endswith(".weight"):
            found[name] = Spec(DTYPES["F16"], shape)
            continue
        size = shape[0] * shape[1] // 2
        found[name] = Spec(DTYPES["U8"], (size, 1))
        found[f"{name}.absmax"] = Spec(DTYPES["U8"], (size // 32,))
        found[f"{name}.quant_state.bitsandbytes__nf4"] = Spec(DTYPES["U8"], (80,))
    return found


def nvfp4(shapes: Shapes) -> Specs:
    """As ComfyUI writes it: two values a byte along the last axis, a scale of 8 bits for 16."""
    found: dict[str, Spec] = {}
    for name, (*rest, last) in ((n, s) for n, s in shapes.items() if len(s) == 2):
        found[name] = Spec(DTYPES["U8"], (*rest, last // 2))
        found[f"{name}_scale"] = Spec(DTYPES["F8_E4M3"], (*rest, last // 16))
        found[f"{name}_scale_2"] = Spec(DTYPES["F32"], ())
    return {name: found.get(name, spec) for name, spec in specs_of(shapes).items()} | found


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl", "ssd_1b"])
def test_four_bit_weights_are_seen_as_wide_as_they_unpack(name: str) -> None:
    four, five = identify(nf4(ldm_unet(name)), {}), identify(nvfp4(ldm_unet(name)), {})

    assert (five.candidates, five.quantization) == ((name,), "NVFP4")
    assert (four.candidates, four.quantization) == ((name,), "bitsandbytes NF4")


def test_gguf_types_are_named() -> None:
    shapes = ldm_unet("sdxl")
    specs = {
        n: Spec(QUANTIZED["Q4_K" if "to_" in n else "Q6_K"], s) if len(s) == 2 else spec
        for (n, s), spec in zip(shapes.items(), specs_of(shapes).values(), strict=True)
    }
    found = identify(specs, {})

    assert (found.architecture, found.quantization) == ("sdxl", "GGUF Q4_K, Q6_K")


def test_plain_weights_are_not_called_packed() -> None:
    assert judged(ldm_unet("sd1")).quantization is None


def test_training_state_beside_a_model_is_set_apart() -> None:
    state = {f"optimizer_states[0].state[{n}].exp_avg": (320, 320) for n in range(50)}
    found = judged(published("sd1-ldm") | state)

    assert found.kind == "checkpoint"
    assert "50 tensors are training state, not part of the model" in found.evidence
    assert found.components["training"].parameters == 50 * 320 * 320


@pytest.mark.parametrize("prefix", ["optimizer.", "optimizer_states[0].", ""])
def test_training_state_alone_is_training(prefix: str) -> None:
    state = {f"{prefix}state[{n}].{m}": (9,) for n in range(9) for m in ("exp_avg", "exp_avg_sq")}
    found = judged(state)

    assert (found.kind, found.architecture) == ("training", None)


STRANGE: dict[str, Shapes] = {
    "nothing at all": {},
    "one random tensor": {"weight": (3, 4)},
    "names of anything": {"layers.0.weight": (9, 9), "layers.1.weight": (9, 9)},
    "a denoiser of nobody": {f"{LDM}blocks.{n}.weight": (9, 9) for n in range(9)},
}


@pytest.mark.parametrize("what", STRANGE)
def test_what_nobody_knows_is_unknown_and_never_sd1(what: str) -> None:
    found = judged(STRANGE[what])

    assert (found.kind, found.architecture, found.candidates) == ("unknown", None, ())
    assert found.prediction is None


def test_a_denoiser_of_no_known_family_is_at_least_called_that() -> None:
    found = judged(STRANGE["a denoiser of nobody"])

    assert found.evidence == ("holds a denoiser of no family known here",)


def test_two_families_in_one_file_stay_undecided() -> None:
    both = {f"unet.{n}": s for n, s in diffusers_unet("sd1").items()}
    both |= {f"unet_2.{n}": s for n, s in diffusers_unet("sdxl").items()}
    found = judged(both | {f"module.{n}": s for n, s in diffusers_unet("sdxl").items()})

    assert found.architecture is None
    assert set(found.candidates) == {"sd1", "sdxl"}


def test_metadata_alone_makes_no_family() -> None:
    found = judged({"weight": (3, 4)}, {"modelspec.architecture": "stable-diffusion-xl-v1-base"})

    assert (found.kind, found.architecture) == ("unknown", None)


def test_candidates_takes_metadata_too() -> None:
    specs = specs_of(ldm_unet("sd1"))

    assert list(candidates(specs, {"a": "b"})) == ["sd1"]


def test_titles_of_families_are_all_different() -> None:
    titles: list[Any] = [family.title for family in ARCHITECTURES.values()]

    assert len(titles) == len(set(titles))


@pytest.mark.parametrize("pattern", ["a.b.c.d.{}.weight", "state[{}].exp_avg"])
def test_a_file_that_claims_very_many_tensors_costs_little(pattern: str) -> None:
    specs = {pattern.format(n): Spec(DTYPES["F16"], (0,)) for n in range(MOST)}
    start = time.process_time()
    found = identify(specs, {})

    assert time.process_time() - start < 3
    assert found.architecture is None
    more = identify(specs | {"one more": Spec(DTYPES["F16"], (0,))}, {})
    assert (more.kind, more.candidates) == ("unknown", ())
    assert "more than any known model" in more.evidence[0]
    assert set(components(specs | {"one more": Spec(DTYPES["F16"], ())}).values()) == {"rest"}
