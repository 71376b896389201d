"""Stable Video Diffusion and SV3D: a picture set in motion.

SVD (14 frames), SVD-XT (25) and SVD 1.1 have the same names and shapes.

Source: Stability-AI generative-models, ``scripts/sampling/configs/svd*.yaml``, ``sv3d*.yaml``;
diffusers ``unet_spatio_temporal_condition.py``.
"""

from __future__ import annotations

from memcard.architectures._family import Family, Variant, count, has, lacks, width
from memcard.architectures._unet_signs import FIRST
from memcard.core.architecture import Defaults

_LABELS = ("label_emb.0.0.weight", "add_embedding.linear_1.weight")

PLUGIN = Family(
    title="Stable Video Diffusion",
    source="https://github.com/Stability-AI/generative-models",
    denoiser="unet",
    dialect="ldm",
    original=(
        width(FIRST, 1, 8, says="noise and the first picture"),
        has("input_blocks.1.0.time_stack.in_layers.2.weight", says="resnets over time"),
        has("input_blocks.1.1.time_stack.0.attn1.to_k.weight", says="attention over time"),
        width("input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight", 1, 1024),
        count("output_blocks.{}.0.in_layers.0.weight", 12),
    ),
    diffusers=(
        width(FIRST, 1, 8, says="noise and the first picture"),
        has("down_blocks.0.resnets.0.temporal_res_block.conv1.weight", says="resnets over time"),
        has("down_blocks.0.attentions.0.temporal_transformer_blocks.0.attn1.to_k.weight"),
        width("down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight", 1, 1024),
        has("up_blocks.3.resnets.2.temporal_res_block.conv1.weight"),
        lacks("controlnet_cond_embedding."),
    ),
    variants=(
        Variant("image to video", (width(_LABELS, 1, 768, says="frame rate, motion, noise"),)),
        Variant("SV3D, orbit", (width(_LABELS, 1, 256, says="noise"),)),
        Variant("SV3D, camera path", (width(_LABELS, 1, 1280, says="noise and camera"),)),
    ),
    image_encoder="CLIP-H vision",
    vae="SVD, 4 channels over time",
    prediction="v_prediction",
    modality="video",
    defaults=Defaults(
        steps=25,
        cfg=3.0,
        sampler="euler",
        width=1024,
        height=576,
        multiple=64,
        prediction_type="v_prediction",
    ),
)
