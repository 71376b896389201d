"""AuraFlow and its fine-tunes (Pony 7).

Source: fal AuraFlow, diffusers' config of ``AuraFlow-v0.3``.
"""

from __future__ import annotations

from memcard.architectures._family import Family, has
from memcard.core.architecture import Defaults

PLUGIN = Family(
    title="AuraFlow",
    source="https://huggingface.co/fal/AuraFlow-v0.3",
    original=(
        has("double_layers.0.attn.w1q.weight", says="picture and text side by side"),
        has("single_layers.0.attn.w1q.weight"),
        has("cond_seq_linear.weight"),
    ),
    diffusers=(
        has(
            "joint_transformer_blocks.0.attn.add_q_proj.weight",
            says="picture and text side by side"
        ),
        has("single_transformer_blocks.0.norm1.linear.weight"),
        has("register_tokens"),
    ),
    text_encoders=("Pile-T5-XL",),
    vae="SD or SDXL, 4 channels",
    tokenizers=("pile-t5",),
    prediction="flow",
    defaults=Defaults(
        steps=50, cfg=3.5, sampler="euler", width=1024, height=1024, multiple=16,
        prediction_type="flow",
    ),
)  # fmt: skip
