"""Chroma: Flux.1 schnell with its modulation replaced by one small network.

Has Flux's blocks; what Flux lacks, the approximator, is its sign.

Source: lodestone-rock flow, ``chroma``; diffusers' config of ``Chroma1-HD``.
"""

from __future__ import annotations

from memcard.architectures._family import Family, has, lacks
from memcard.core.architecture import Defaults

_APPROXIMATOR = has(
    "distilled_guidance_layer.in_proj.weight", says="one network modulates all blocks"
)

PLUGIN = Family(
    title="Chroma",
    source="https://huggingface.co/lodestones/Chroma1-HD",
    original=(
        _APPROXIMATOR,
        has("double_blocks.0.img_attn.qkv.weight"),
        has("img_in.weight"),
        lacks("nerf_blocks."),
    ),
    diffusers=(
        _APPROXIMATOR,
        has("transformer_blocks.0.attn.add_q_proj.weight"),
        has("x_embedder.weight"),
    ),
    text_encoders=("T5-XXL",),
    vae="SD3 or Flux, 16 channels",
    tokenizers=("t5",),
    prediction="flow",
    defaults=Defaults(
        steps=35, cfg=5.0, sampler="euler", width=1024, height=1024, multiple=16,
        prediction_type="flow",
    ),
)  # fmt: skip
