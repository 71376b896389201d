"""The prior of an unCLIP model: text embedding to picture embedding. Kandinsky 2.1 and 2.2, Karlo.

Source: diffusers ``prior_transformer.py`` and the config of ``kandinsky-2-2-prior``.
"""

from __future__ import annotations

from memcard.architectures._family import Family, has
from memcard.core.architecture import Defaults

PLUGIN = Family(
    title="unCLIP prior",
    source="https://github.com/ai-forever/Kandinsky-2",
    diffusers=(
        has("prd_embedding", says="makes an embedding, no picture"),
        has("proj_to_clip_embeddings.weight"),
        has("transformer_blocks.0.attn1.to_q.weight"),
    ),
    text_encoders=("CLIP-G",),
    tokenizers=("clip",),
    prediction="sample",
    defaults=Defaults(steps=25, cfg=4.0, prediction_type="sample"),
)
