"""Anima: Cosmos-Predict2 2B for pictures, with an adapter from Qwen3 to the T5 it was trained on.

The adapter is its sign; without it the file is Cosmos-Predict2.

Source: https://huggingface.co/circlestone-labs/Anima; diffusers ``convert_anima_to_diffusers.py``.
"""

from __future__ import annotations

from memcard.architectures._family import Family, has
from memcard.core.architecture import Defaults

PLUGIN = Family(
    title="Anima",
    source="https://huggingface.co/circlestone-labs/Anima",
    original=(
        has("blocks.0.mlp.layer1.weight"),
        has("blocks.0.adaln_modulation_self_attn.1.weight"),
        has("x_embedder.proj.1.weight"),
        has(
            "llm_adapter.blocks.0.cross_attn.q_proj.weight", says="an adapter before Cosmos' blocks"
        ),
    ),
    text_encoders=("Qwen3-0.6B",),
    vae="Wan 2.1, 16 channels",
    tokenizers=("qwen", "t5"),
    prediction="flow",
    defaults=Defaults(
        steps=30, cfg=4.0, sampler="euler", width=1024, height=1024, multiple=16,
        prediction_type="flow",
    ),
)  # fmt: skip
