"""Chroma Radiance: Chroma that makes pixels itself, with a small NeRF for every patch. No VAE.

Source: lodestone-rock flow; https://huggingface.co/lodestones/Chroma1-Radiance.
"""

from __future__ import annotations

from memcard.architectures._family import Family, has
from memcard.core.architecture import Defaults

PLUGIN = Family(
    title="Chroma Radiance",
    source="https://huggingface.co/lodestones/Chroma1-Radiance",
    original=(
        has("distilled_guidance_layer.in_proj.weight", says="one network modulates all blocks"),
        has("double_blocks.0.img_attn.qkv.weight"),
        has(
            "nerf_blocks.0.norm.scale", "nerf_blocks.0.norm.weight", says="makes pixels, no latents"
        ),
    ),
    text_encoders=("T5-XXL",),
    tokenizers=("t5",),
    prediction="flow",
    defaults=Defaults(
        steps=50, cfg=3.5, sampler="euler", width=1024, height=1024, multiple=16,
        prediction_type="flow",
    ),
)  # fmt: skip
