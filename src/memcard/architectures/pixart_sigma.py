"""PixArt-Sigma. In diffusers' layout a small PixArt-alpha has the same names and shapes.

Source: PixArt-alpha PixArt-sigma, ``PixArtMS.py``; diffusers' config of
``PixArt-Sigma-XL-2-1024-MS``.
"""

from __future__ import annotations

from memcard.architectures._family import Family, any_of, has, lacks, unsaid, width
from memcard.core.architecture import Defaults

PLUGIN = Family(
    title="PixArt-Sigma",
    source="https://github.com/PixArt-alpha/PixArt-sigma",
    original=(
        has("t_block.1.weight", says="one modulation for all blocks"),
        has("blocks.0.cross_attn.kv_linear.weight"),
        has("blocks.0.mlp.fc1.weight"),
        lacks("ar_embedder.", "csize_embedder.", says="not told the size of the picture: Sigma"),
        any_of(
            width("y_embedder.y_embedding", 0, 300, says="captions of 300 tokens: Sigma"),
            lacks("y_embedder.y_embedding"),
        ),
    ),
    diffusers=(
        has("adaln_single.emb.timestep_embedder.linear_1.weight"),
        has("transformer_blocks.0.attn2.to_k.weight"),
        has("pos_embed.proj.weight"),
        has("caption_projection.linear_1.weight"),
        width("proj_out.bias", 0, 32, says="says its own variance"),
        unsaid("diffusers/model_index.json", "pixartalphapipeline"),
        lacks(
            "adaln_single.emb.resolution_embedder.",
            says="Sigma, or alpha for 256 or 512 pixels: the same tensors",
        ),
    ),
    text_encoders=("T5-XXL",),
    vae="SD or SDXL, 4 channels",
    tokenizers=("t5",),
    prediction="epsilon",
    defaults=Defaults(steps=20, cfg=4.5, width=1024, height=1024, multiple=16),
)
