"""Mochi 1.

Source: genmoai mochi, ``asymm_models_joint.py``; diffusers' config of ``mochi-1-preview``.
"""

from __future__ import annotations

from memcard.architectures._family import Family, has
from memcard.core.architecture import Defaults

PLUGIN = Family(
    title="Mochi 1",
    source="https://github.com/genmoai/mochi",
    original=(
        has("t5_yproj.weight", says="pools a T5"),
        has("blocks.0.attn.qkv_x.weight"),
        has("x_embedder.proj.weight"),
    ),
    diffusers=(
        has("time_embed.caption_proj.weight", says="pools a T5"),
        has("time_embed.pooler.to_kv.weight"),
        has("patch_embed.proj.weight"),
        has("transformer_blocks.0.attn1.add_k_proj.weight"),
    ),
    text_encoders=("T5-XXL",),
    vae="Mochi, 12 channels",
    tokenizers=("t5",),
    prediction="flow",
    modality="video",
    defaults=Defaults(
        steps=64, cfg=4.5, sampler="euler", width=848, height=480, multiple=16,
        prediction_type="flow", extra={"frames": 85},
    ),
)  # fmt: skip
