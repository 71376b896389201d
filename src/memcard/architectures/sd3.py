"""Stable Diffusion 3 and 3.5. Large and Large Turbo have the same names and shapes.

Source: Stability-AI sd3.5, ``mmditx.py``; diffusers' configs of ``stable-diffusion-3-medium``,
``3.5-medium`` and ``3.5-large``.
"""

from __future__ import annotations

from memcard.architectures._family import Family, Variant, has, lacks, width
from memcard.core.architecture import Defaults

_WIDE = "context_embedder.bias"
_DUAL = (
    "joint_blocks.0.x_block.attn2.qkv.weight",
    "transformer_blocks.0.attn2.to_q.weight",
)

PLUGIN = Family(
    title="Stable Diffusion 3",
    source="https://github.com/Stability-AI/sd3.5",
    original=(
        has("joint_blocks.0.context_block.attn.qkv.weight", says="picture and text side by side"),
        has("joint_blocks.0.x_block.attn.qkv.weight"),
        has("x_embedder.proj.weight"),
        has("final_layer.linear.weight"),
    ),
    diffusers=(
        has(
            "transformer_blocks.0.norm1_context.linear.weight", says="picture and text side by side"
        ),
        has("pos_embed.proj.weight"),
        has("time_text_embed.text_embedder.linear_1.weight"),
        has(_WIDE),
        has("proj_out.weight"),
        lacks("single_transformer_blocks."),
    ),
    variants=(
        Variant("3.0 medium", (width(_WIDE, 0, 1536), lacks(*_DUAL))),
        Variant("3.5 medium", (has(*_DUAL, says="a second attention: 3.5 medium"),)),
        Variant("3.5 large", (width(_WIDE, 0, 2432, says="3.5 large or large turbo"),)),
    ),
    text_encoders=("CLIP-L", "CLIP-G", "T5-XXL"),
    vae="SD3 or Flux, 16 channels",
    tokenizers=("clip", "t5"),
    prediction="flow",
    defaults=Defaults(
        steps=28, cfg=4.5, sampler="euler", width=1024, height=1024, multiple=16,
        prediction_type="flow",
    ),
)  # fmt: skip
