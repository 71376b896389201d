"""The refiner of Stable Diffusion XL: it finishes what the base began.

Source: Stability-AI generative-models, ``configs/inference/sd_xl_refiner.yaml``; diffusers'
``stable-diffusion-xl-refiner-1.0`` config.
"""

from __future__ import annotations

from memcard.architectures._family import Family, lacks, width
from memcard.architectures._unet_signs import depth, diffusers, ldm, text
from memcard.core.architecture import Defaults

_LABELS = ("label_emb.0.0.weight", "add_embedding.linear_1.weight")
_SAYS = "pooled text, four sizes and an aesthetic score: SDXL refiner"

PLUGIN = Family(
    title="Stable Diffusion XL refiner",
    source="https://github.com/Stability-AI/generative-models",
    denoiser="unet",
    dialect="ldm",
    original=(
        *ldm(4),
        width(_LABELS, 1, 2560, says=_SAYS),
        text("input_blocks.4.1", 1280, "CLIP-G"),
        depth("input_blocks.4.1", 4),
        depth("input_blocks.7.1", 4),
        lacks("input_blocks.1.1.", "input_blocks.10.1."),
    ),
    diffusers=(
        *diffusers(4),
        width(_LABELS, 1, 2560, says=_SAYS),
        text("down_blocks.1.attentions.0", 1280, "CLIP-G"),
        depth("down_blocks.1.attentions.0", 4),
        depth("down_blocks.2.attentions.0", 4),
        lacks("down_blocks.0.attentions.", "down_blocks.3.attentions."),
    ),
    text_encoders=("CLIP-G",),
    vae="SD or SDXL, 4 channels",
    tokenizers=("clip",),
    prediction="epsilon",
    defaults=Defaults(steps=30, cfg=6.0, width=1024, height=1024),
)
