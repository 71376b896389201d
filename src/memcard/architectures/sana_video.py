"""Sana-Video: Sana with convolutions over time.

Source: NVlabs Sana; diffusers' config of ``SANA-Video_2B_480p_diffusers``.
"""

from __future__ import annotations

from memcard.architectures._family import Family, has
from memcard.core.architecture import Defaults

PLUGIN = Family(
    title="Sana-Video",
    source="https://github.com/NVlabs/Sana",
    diffusers=(
        has("caption_norm.weight", says="norms the text"),
        has("patch_embedding.weight"),
        has(
            "transformer_blocks.0.ff.conv_inverted.weight",
            says="convolutions between the attentions"
        ),
        has("transformer_blocks.0.ff.conv_temp.weight", says="and over time"),
        has("transformer_blocks.0.attn2.to_k.weight"),
    ),
    text_encoders=("Gemma-2-2B",),
    vae="Wan 2.1, 16 channels",
    tokenizers=("gemma",),
    prediction="flow",
    modality="video",
    defaults=Defaults(
        steps=50, cfg=6.0, width=832, height=480, multiple=16, prediction_type="flow",
        extra={"frames": 81},
    ),
)  # fmt: skip
