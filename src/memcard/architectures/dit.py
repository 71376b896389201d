"""DiT, pictures of the thousand classes of ImageNet. SiT has the same names and shapes.

Source: facebookresearch DiT, ``models.py``; diffusers' config of ``DiT-XL-2-256``.
"""

from __future__ import annotations

from memcard.architectures._family import Family, has
from memcard.core.architecture import Defaults

PLUGIN = Family(
    title="DiT",
    source="https://github.com/facebookresearch/DiT",
    original=(
        has("y_embedder.embedding_table.weight", says="takes a class, not a text"),
        has("x_embedder.proj.weight"),
        has("blocks.0.adaLN_modulation.1.weight"),
        has("blocks.0.attn.qkv.weight"),
    ),
    diffusers=(
        has(
            "transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight",
            says="takes a class, not a text",
        ),
        has("pos_embed.proj.weight"),
    ),
    vae="SD or SDXL, 4 channels",
    prediction="epsilon",
    defaults=Defaults(steps=50, cfg=4.0, width=256, height=256, multiple=16),
)
