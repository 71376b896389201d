"""Cosmos 1.0 diffusion world models, 7B and 14B.

Source: nvidia-cosmos cosmos-predict1; diffusers ``convert_cosmos_to_diffusers.py``.
"""

from __future__ import annotations

from memcard.architectures._family import Family, Variant, count, has, width
from memcard.core.architecture import Defaults

_FIRST = ("x_embedder.proj.1.weight", "patch_embed.proj.weight")
_BLOCKS = (
    "blocks.block{}.blocks.0.block.attn.to_q.0.weight",
    "transformer_blocks.{}.attn1.to_q.weight",
)

PLUGIN = Family(
    title="Cosmos 1.0",
    source="https://github.com/nvidia-cosmos/cosmos-predict1",
    original=(
        has("blocks.block0.blocks.0.block.attn.to_q.0.weight"),
        has("x_embedder.proj.1.weight"),
        has("extra_pos_embedder.pos_emb_t", says="learned places: Cosmos 1.0"),
    ),
    diffusers=(
        has("time_embed.t_embedder.linear_1.weight"),
        has("transformer_blocks.0.norm1.linear_1.weight"),
        has("learnable_pos_embed.pos_emb_t", says="learned places: Cosmos 1.0"),
    ),
    variants=(
        Variant("text to world", (width(_FIRST, 1, 68, says="latents and a mask"),)),
        Variant("video to world", (width(_FIRST, 1, 72, says="latents and two masks"),)),
        Variant("7B", (count(_BLOCKS, 28, says="7B"),)),
        Variant("14B", (count(_BLOCKS, 36, says="14B"),)),
    ),
    text_encoders=("T5-11B",),
    vae="Cosmos 1.0, 16 channels",
    tokenizers=("t5",),
    prediction="edm",
    modality="video",
    defaults=Defaults(
        steps=36, cfg=7.0, sampler="euler", width=1280, height=704, multiple=16,
        prediction_type="edm", extra={"frames": 121},
    ),
)  # fmt: skip
