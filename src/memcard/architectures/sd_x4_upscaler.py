"""Stable Diffusion x4 upscaler: a small picture beside the noise.

Source: Stability-AI stablediffusion, ``configs/stable-diffusion/x4-upscaling.yaml``; diffusers'
``stable-diffusion-x4-upscaler`` config.
"""

from __future__ import annotations

from memcard.architectures._family import Family, has, lacks, rank
from memcard.architectures._signs import width
from memcard.architectures._unet_signs import FIRST, depth, diffusers, ldm, text
from memcard.core.architecture import Defaults

PLUGIN = Family(
    title="Stable Diffusion x4 upscaler",
    source="https://github.com/Stability-AI/stablediffusion",
    denoiser="unet",
    dialect="ldm",
    original=(
        *ldm(4),
        width(FIRST, 1, 7, says="four latent channels and three colours"),
        rank("label_emb.weight", 2, says="a row for each noise level"),
        text("input_blocks.4.1", 1024, "OpenCLIP-H"),
        depth("input_blocks.4.1", 1),
        has("input_blocks.10.1.proj_in.weight"),
        lacks("input_blocks.1.1."),
    ),
    diffusers=(
        *diffusers(4),
        width(FIRST, 1, 7, says="four latent channels and three colours"),
        rank("class_embedding.weight", 2, says="a row for each noise level"),
        text("down_blocks.1.attentions.0", 1024, "OpenCLIP-H"),
        has("down_blocks.3.attentions.0.proj_in.weight"),
        lacks("down_blocks.0.attentions."),
    ),
    text_encoders=("OpenCLIP-H",),
    vae="SD x4 upscaler, 4 channels",
    tokenizers=("clip",),
    prediction="v_prediction",
    defaults=Defaults(
        steps=75, cfg=9.0, sampler="ddim", width=512, height=512, prediction_type="v_prediction"
    ),
)
