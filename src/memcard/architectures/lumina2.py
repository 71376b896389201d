"""Lumina-Image 2.0 and its fine-tunes (Neta, NetaYume).

Source: Alpha-VLLM Lumina-Image-2.0, ``models/model.py``; diffusers' config of the same name.
"""

from __future__ import annotations

from memcard.architectures._family import Family, has, lacks
from memcard.core.architecture import Defaults

PLUGIN = Family(
    title="Lumina-Image 2.0",
    source="https://github.com/Alpha-VLLM/Lumina-Image-2.0",
    original=(
        has("cap_embedder.1.weight"),
        has("noise_refiner.0.attention.qkv.weight"),
        has("layers.0.adaLN_modulation.1.weight", says="Lumina; Z-Image calls it .0"),
    ),
    diffusers=(
        has("time_caption_embed.caption_embedder.1.weight"),
        has("noise_refiner.0.attn.to_q.weight"),
        has("layers.0.norm1.linear.weight"),
        lacks("ref_image_patch_embedder.", "ref_image_refiner."),
    ),
    text_encoders=("Gemma-2-2B",),
    vae="SD3 or Flux, 16 channels",
    tokenizers=("gemma",),
    prediction="flow",
    defaults=Defaults(
        steps=30, cfg=4.0, sampler="euler", width=1024, height=1024, multiple=16,
        prediction_type="flow",
    ),
)  # fmt: skip
