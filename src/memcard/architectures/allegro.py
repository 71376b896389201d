"""Allegro. Its tensors have the names of PixArt-Sigma's in diffusers' layout.

Source: rhymes-ai Allegro; diffusers' config of ``Allegro``.
"""

from __future__ import annotations

from memcard.architectures._family import Family, has, lacks, width
from memcard.core.architecture import Defaults

PLUGIN = Family(
    title="Allegro",
    source="https://github.com/rhymes-ai/Allegro",
    diffusers=(
        has("adaln_single.emb.timestep_embedder.linear_1.weight"),
        has("pos_embed.proj.weight"),
        has("transformer_blocks.0.attn2.to_k.weight"),
        has("caption_projection.linear_1.weight"),
        width("proj_out.bias", 0, 16, says="says no variance: Allegro; PixArt gives 32"),
        lacks("adaln_single.emb.resolution_embedder."),
    ),
    text_encoders=("T5-XXL",),
    vae="Allegro, 4 channels",
    tokenizers=("t5",),
    prediction="epsilon",
    modality="video",
    defaults=Defaults(
        steps=100, cfg=7.5, sampler="euler_a", width=1280, height=720, multiple=16,
        extra={"frames": 88},
    ),
)  # fmt: skip
