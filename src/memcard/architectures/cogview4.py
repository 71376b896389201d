"""CogView4. CogView3-Plus has the same names, and is narrower.

Source: zai-org CogView4; diffusers' config of ``CogView4-6B``.
"""

from __future__ import annotations

from memcard.architectures._family import Family, has, width
from memcard.core.architecture import Defaults

PLUGIN = Family(
    title="CogView4",
    source="https://github.com/zai-org/CogView4",
    diffusers=(
        has("time_condition_embed.condition_embedder.linear_1.weight", says="told size and crop"),
        has("patch_embed.text_proj.weight"),
        has("transformer_blocks.0.norm1.linear.weight"),
        width("patch_embed.proj.bias", 0, 4096, says="CogView4; CogView3-Plus has 2560"),
    ),
    text_encoders=("GLM-4-9B",),
    vae="CogView, 16 channels",
    tokenizers=("glm",),
    prediction="flow",
    defaults=Defaults(
        steps=50, cfg=5.0, sampler="euler", width=1024, height=1024, multiple=32,
        prediction_type="flow",
    ),
)  # fmt: skip
