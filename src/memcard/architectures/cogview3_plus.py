"""CogView3-Plus. CogView4 has the same names, and is wider.

Source: zai-org CogView3; diffusers' config of ``CogView3-Plus-3B``.
"""

from __future__ import annotations

from memcard.architectures._family import Family, has, width
from memcard.core.architecture import Defaults

PLUGIN = Family(
    title="CogView3-Plus",
    source="https://github.com/zai-org/CogView3",
    diffusers=(
        has("time_condition_embed.condition_embedder.linear_1.weight", says="told size and crop"),
        has("patch_embed.text_proj.weight"),
        has("transformer_blocks.0.norm1.linear.weight"),
        width("patch_embed.proj.bias", 0, 2560, says="CogView3-Plus; CogView4 has 4096"),
    ),
    text_encoders=("T5-XXL",),
    vae="CogView, 16 channels",
    tokenizers=("t5",),
    prediction="v_prediction",
    defaults=Defaults(
        steps=50, cfg=5.0, width=1024, height=1024, multiple=32, prediction_type="v_prediction"
    ),
)
