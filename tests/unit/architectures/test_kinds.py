"""Files that are no checkpoint: ControlNets, embeddings, image prompts, upscalers, hypernetworks."""

import warnings
from typing import Any

import diffusers
import pytest
import torch

from fixtures.unets import SIZES, Shapes, config, ldm_unet
from memcard.architectures import components, identify
from memcard.core.architecture import Identity
from memcard.core.tensors import DTYPES, Spec, Specs


def specs_of(shapes: Shapes, prefix: str = "") -> Specs:
    return {prefix + name: Spec(DTYPES["F16"], shape) for name, shape in shapes.items()}


def judged(shapes: Shapes, prefix: str = "") -> Identity:
    return identify(specs_of(shapes, prefix), {})


def built(kind: str, **options: Any) -> Shapes:
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = getattr(diffusers, kind)(**options)
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def unet_options(family: str) -> dict[str, Any]:
    """What a ControlNet has in common with its UNet."""
    only_unet = ("mid_block_type", "up_block_types")
    return {k: v for k, v in config(SIZES[family]).items() if k not in only_unet}


CONTROLNETS = {
    "sd1": lambda: built("ControlNetModel", **unet_options("sd1")),
    "sd2": lambda: built("ControlNetModel", **unet_options("sd2")),
    "sdxl": lambda: built("ControlNetModel", **unet_options("sdxl")),
    "sdxl, union": lambda: built("ControlNetUnionModel", **unet_options("sdxl")),
    "flux": lambda: built("FluxControlNetModel", num_layers=5, num_single_layers=10),
    "sd3": lambda: built("SD3ControlNetModel", num_layers=6, pooled_projection_dim=2048),
    "qwen_image": lambda: built("QwenImageControlNetModel", num_layers=5),
    "sd1, T2I-Adapter": lambda: built("T2IAdapter", channels=(320, 640, 1280, 1280)),
    "sdxl, T2I-Adapter": lambda: built(
        "T2IAdapter", adapter_type="full_adapter_xl", downscale_factor=16
    ),
}


@pytest.mark.parametrize("prefix", ["", "controlnet."])
@pytest.mark.parametrize("what", CONTROLNETS)
def test_controlnets_as_diffusers_makes_them(what: str, prefix: str) -> None:
    family, _, variant = what.partition(", ")
    found = judged(CONTROLNETS[what](), prefix)

    assert (found.kind, found.architecture) == ("controlnet", family)
    assert (found.variant or "", found.dialect) == (variant, "diffusers")
    assert [start.split(":")[0] for start in found.missing] == ["base model"]
    assert list(found.components) == ["controlnet"]


@pytest.mark.parametrize("prefix", ["", "control_model."])
@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_controlnets_under_their_authors_names(family: str, prefix: str) -> None:
    half = {
        n: s for n, s in ldm_unet(family).items() if not n.startswith(("output_blocks", "out."))
    }
    half |= {"input_hint_block.0.weight": (16, 3, 3, 3), "zero_convs.0.0.weight": (320, 320, 1, 1)}
    found = judged(half, prefix)

    assert (found.kind, found.architecture, found.dialect) == ("controlnet", family, "ldm")


def test_a_controlnet_beside_its_unet_is_a_part_of_a_checkpoint() -> None:
    shapes = {f"model.diffusion_model.{n}": s for n, s in ldm_unet("sd1").items()}
    shapes |= {"control_model.input_hint_block.0.weight": (16, 3, 3, 3)}
    found = judged(shapes)

    assert (found.architecture, list(found.components)) == ("sd1", ["unet", "controlnet"])


WIDE = "transformer_blocks.0.attn2.to_k.weight"
SPECIAL: dict[str, tuple[Shapes, tuple[str, str | None, str | None]]] = {
    "Control-LoRA": (
        {
            "lora_controlnet": (),
            "input_hint_block.0.weight": (16, 3, 3, 3),
            f"input_blocks.4.1.{WIDE}": (640, 2048),
        },
        ("controlnet", "sdxl", "Control-LoRA"),
    ),
    "LLLite": (
        {f"lllite_unet_input_blocks_4_1_{n}.depth.weight": (4, 4) for n in range(4)},
        ("controlnet", "sdxl", "ControlNet-LLLite"),
    ),
    "Flux, XLabs": (
        {
            "input_hint_block.0.weight": (16, 3, 3, 3),
            "double_blocks.0.img_attn.qkv.weight": (9216, 3072),
        },
        ("controlnet", "flux", "XLabs"),
    ),
    "IP-Adapter": (
        {
            "image_proj.proj.weight": (3072, 1024),
            "ip_adapter.1.to_k_ip.weight": (320, 768),
        },
        ("ip_adapter", "sd1", None),
    ),
    "IP-Adapter plus": (
        {"image_proj.latents": (1, 16, 1280), "ip_adapter.1.to_k_ip.weight": (640, 2048)},
        ("ip_adapter", "sdxl", "plus"),
    ),
    "Redux": (
        {"redux_up.weight": (12288, 1152), "redux_down.weight": (4096, 12288)},
        ("ip_adapter", "flux", "Redux"),
    ),
    "hypernetwork": (
        {f"[768][{n}].linear.0.weight": (1536, 768) for n in (0, 1)},
        ("hypernetwork", "sd1", None),
    ),
    "Real-ESRGAN": (
        {
            "params_ema.conv_first.weight": (64, 3, 3, 3),
            "params_ema.body.0.rdb1.conv1.weight": (32, 64, 3, 3),
        },
        ("upscaler", None, "Real-ESRGAN"),
    ),
    "ESRGAN": (
        {
            "model.0.weight": (64, 3, 3, 3),
            "model.1.sub.0.RDB1.conv1.0.weight": (32, 64, 3, 3),
        },
        ("upscaler", None, "ESRGAN"),
    ),
    "embedding, A1111": ({"string_to_param.*": (8, 768)}, ("embedding", "sd1", "8 vectors a word")),
    "embedding, SD 2": ({"emb_params": (4, 1024)}, ("embedding", "sd2", "4 vectors a word")),
    "embedding, SDXL": (
        {"clip_l": (2, 768), "clip_g": (2, 1280)},
        ("embedding", "sdxl", "2 vectors a word"),
    ),
    "embedding, SD 3": (
        {"clip_l": (2, 768), "clip_g": (2, 1280), "t5xxl": (2, 4096)},
        ("embedding", "sd3", "2 vectors a word"),
    ),
    "embedding, one word": ({"<cat-toy>": (768,)}, ("embedding", "sd1", "1 vector a word")),
}


@pytest.mark.parametrize("what", SPECIAL)
def test_special_kinds_are_named_with_their_family(what: str) -> None:
    shapes, (kind, family, variant) = SPECIAL[what]
    found = judged(shapes)

    assert (found.kind, found.architecture, found.variant) == (kind, family, variant)
    assert found.evidence
    assert set(components(specs_of(shapes)).values()) == {kind}


ALMOST: dict[str, Shapes] = {
    "a word beside other tensors": {"emb_params": (4, 768), "weight": (3, 3)},
    "a word of three axes": {"emb_params": (4, 768, 2)},
    "a hint and no net": {"input_hint_block.0.weight": (16, 3, 3, 3)},
    "an image prompt without keys": {"image_proj.proj.weight": (3072, 1024)},
}


@pytest.mark.parametrize("what", ALMOST)
def test_what_only_looks_like_one_is_unknown(what: str) -> None:
    assert judged(ALMOST[what]).kind == "unknown"


def test_an_embedding_of_no_known_width_names_no_family() -> None:
    found = judged({"emb_params": (4, 123)})

    assert (found.kind, found.architecture, found.missing) == ("embedding", None, ())
