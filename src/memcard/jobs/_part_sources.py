"""Where people usually get the parts that a bare denoiser lacks: for messages, nothing is fetched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Source:
    """Where people usually get a part from."""

    what: str
    files: str
    place: str


_CLIP_L: Final = Source(
    "CLIP-L",
    "clip_l.safetensors (0.25 GB)",
    "comfyanonymous/flux_text_encoders or openai/clip-vit-large-patch14 on Hugging Face",
)
_T5: Final = Source(
    "T5-XXL",
    "t5xxl_fp16.safetensors (9.8 GB) or t5xxl_fp8_e4m3fn.safetensors (4.9 GB)",
    "comfyanonymous/flux_text_encoders on Hugging Face",
)
_UMT5: Final = Source(
    "UMT5-XXL with its words",
    "umt5_xxl_fp16.safetensors (11.4 GB) or umt5_xxl_fp8_e4m3fn_scaled.safetensors (6.7 GB)",
    "Comfy-Org/Wan_2.1_ComfyUI_repackaged on Hugging Face",
)
_CLIP_G: Final = Source(
    "CLIP-G",
    "clip_g.safetensors (1.4 GB)",
    "the folder text_encoders of stabilityai/stable-diffusion-3.5-large on Hugging Face",
)
_OPEN_CLIP_H: Final = Source(
    "OpenCLIP-H",
    "model.safetensors (1.4 GB)",
    "the folder text_encoder of a diffusers copy of Stable Diffusion 2.1",
)
_VAE: Final = {
    "flux": Source(
        "the VAE of Flux.1, 16 channels",
        "ae.safetensors (0.34 GB)",
        "black-forest-labs/FLUX.1-schnell on Hugging Face",
    ),
    "sd3": Source(
        "the VAE of Stable Diffusion 3, 16 channels",
        "diffusion_pytorch_model.safetensors (0.17 GB)",
        "the folder vae of stabilityai/stable-diffusion-3.5-large on Hugging Face",
    ),
    "wan21": Source(
        "the VAE of Wan 2.1, 16 channels",
        "wan_2.1_vae.safetensors (0.25 GB)",
        "Comfy-Org/Wan_2.1_ComfyUI_repackaged on Hugging Face",
    ),
    "sd1": Source(
        "the VAE of Stable Diffusion 1, 4 channels",
        "vae-ft-mse-840000-ema-pruned.safetensors (0.33 GB)",
        "stabilityai/sd-vae-ft-mse-original on Hugging Face",
    ),
    "sdxl": Source(
        "the VAE of Stable Diffusion XL, 4 channels",
        "sdxl_vae.safetensors (0.33 GB)",
        "stabilityai/sdxl-vae on Hugging Face",
    ),
}
_ENCODERS: Final = {
    "sd1": {"text_encoder": _CLIP_L},
    "sd2": {"text_encoder": _OPEN_CLIP_H},
    "sdxl": {"text_encoder": _CLIP_L, "text_encoder_2": _CLIP_G},
    "sdxl_refiner": {"text_encoder_2": _CLIP_G},
    "sd3": {"text_encoder": _CLIP_L, "text_encoder_2": _CLIP_G, "text_encoder_3": _T5},
    "flux": {"text_encoder": _CLIP_L, "text_encoder_2": _T5},
    "ltx_video": {"text_encoder": _T5},
    "wan21": {"text_encoder": _UMT5},
}


def sources_of(family: str) -> Mapping[str, Source]:
    """Return where each part of a family that is not the denoiser comes from, by component."""
    kind = "sdxl" if family == "sdxl_refiner" else family
    vae = {"vae": _VAE[kind]} if kind in _VAE else {}
    return {**_ENCODERS.get(family, {}), **vae}
