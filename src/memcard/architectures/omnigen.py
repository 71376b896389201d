"""OmniGen: a language model (Phi-3) that paints. Its text encoder is the model itself.

Source: VectorSpaceLab OmniGen, ``OmniGen/model.py``; diffusers' config of ``OmniGen-v1-diffusers``.
"""

from __future__ import annotations

from memcard.architectures._family import Family, has
from memcard.core.architecture import Defaults

PLUGIN = Family(
    title="OmniGen",
    source="https://github.com/VectorSpaceLab/OmniGen",
    original=(
        has("input_x_embedder.proj.weight", says="reads pictures too"),
        has("time_token.mlp.0.weight"),
        has("llm.layers.0.self_attn.qkv_proj.weight", says="Phi-3 inside"),
    ),
    diffusers=(
        has("patch_embedding.input_image_proj.weight", says="reads pictures too"),
        has("time_token.linear_1.weight"),
        has("layers.0.mlp.gate_up_proj.weight", says="Phi-3 inside"),
    ),
    vae="SD or SDXL, 4 channels",
    tokenizers=("phi3",),
    prediction="flow",
    defaults=Defaults(
        steps=50, cfg=2.5, sampler="euler", width=1024, height=1024, multiple=16,
        prediction_type="flow",
    ),
)  # fmt: skip
