"""PixArt-alpha. Its largest model is told the size of the picture, which Sigma's is not.

Smaller alphas are not told either; in their authors' layout the number of caption tokens tells them
from Sigma (120, not 300), in diffusers' only the
``model_index.json`` of a folder does: see ``pixart_sigma``.

Source: PixArt-alpha, ``PixArtMS.py``; diffusers' config of ``PixArt-XL-2-1024-MS``.
"""

from __future__ import annotations

from memcard.architectures._family import Family, Variant, any_of, has, lacks, said, width
from memcard.core.architecture import Defaults

_SIZES = ("csize_embedder.mlp.0.weight", "adaln_single.emb.resolution_embedder.linear_1.weight")

PLUGIN = Family(
    title="PixArt-alpha",
    source="https://github.com/PixArt-alpha/PixArt-alpha",
    original=(
        has("t_block.1.weight", says="one modulation for all blocks"),
        has("blocks.0.cross_attn.kv_linear.weight"),
        has("blocks.0.mlp.fc1.weight"),
        any_of(
            has("ar_embedder.mlp.0.weight", says="told the size and shape of the picture: alpha"),
            width("y_embedder.y_embedding", 0, 120, says="captions of 120 tokens: alpha"),
        ),
    ),
    diffusers=(
        any_of(
            has(
                "adaln_single.emb.resolution_embedder.linear_1.weight", says="told the size: alpha"
            ),
            said("diffusers/model_index.json", "pixartalphapipeline"),
        ),
        has("pos_embed.proj.weight"),
        has("transformer_blocks.0.attn2.to_k.weight"),
        has("caption_projection.linear_1.weight"),
        width("proj_out.bias", 0, 32),
    ),
    variants=(
        Variant("1024 pixels", (has(*_SIZES),)),
        Variant("256 or 512 pixels", (lacks(*_SIZES),)),
    ),
    text_encoders=("T5-XXL",),
    vae="SD or SDXL, 4 channels",
    tokenizers=("t5",),
    prediction="epsilon",
    defaults=Defaults(steps=20, cfg=4.5, width=1024, height=1024, multiple=16),
)
