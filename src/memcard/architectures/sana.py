"""Sana, Sana 1.5 and Sana Sprint: linear attention on latents 32 times smaller.

Source: NVlabs Sana, ``sana_multi_scale.py``; diffusers' configs of ``Sana_1600M_1024px``,
``Sana_600M_1024px``, ``SANA1.5_4.8B_1024px`` and ``Sana_Sprint_1.6B_1024px``.
"""

from __future__ import annotations

from memcard.architectures._family import Family, Variant, count, has, lacks
from memcard.core.architecture import Defaults

_BLOCKS = ("blocks.{}.scale_shift_table", "transformer_blocks.{}.scale_shift_table")
_NORM = ("blocks.0.attn.q_norm.weight", "transformer_blocks.0.attn1.norm_q.weight")
_GUIDANCE = ("cfg_embedder.mlp.0.weight", "time_embed.guidance_embedder.linear_1.weight")

PLUGIN = Family(
    title="Sana",
    source="https://github.com/NVlabs/Sana",
    original=(
        has("attention_y_norm.weight", says="norms the text"),
        has("blocks.0.cross_attn.q_linear.weight"),
        has("blocks.0.mlp.inverted_conv.conv.weight", says="convolutions between the attentions"),
        lacks("blocks.0.mlp.t_conv."),
    ),
    diffusers=(
        has("caption_norm.weight", says="norms the text"),
        has("patch_embed.proj.weight"),
        has(
            "transformer_blocks.0.ff.conv_inverted.weight",
            says="convolutions between the attentions",
        ),
        lacks("transformer_blocks.0.ff.conv_temp."),
    ),
    variants=(
        Variant("600M", (count(_BLOCKS, 28, says="600M"),)),
        Variant("1600M", (count(_BLOCKS, 20, says="1600M"),)),
        Variant("4800M", (count(_BLOCKS, 60, says="4800M"),)),
        Variant("1.5", (has(*_NORM, says="norms queries: 1.5"), lacks(*_GUIDANCE))),
        Variant("Sprint", (has(*_GUIDANCE, says="1 to 4 steps: Sprint"),), prediction="trigflow"),
    ),
    text_encoders=("Gemma-2-2B",),
    vae="DC-AE, 32 channels",
    tokenizers=("gemma",),
    prediction="flow",
    defaults=Defaults(
        steps=20, cfg=4.5, width=1024, height=1024, multiple=32, prediction_type="flow"
    ),
)
