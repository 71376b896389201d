"""Ovis-Image: Flux's blocks, with the text of Ovis normed before it is projected.

Source: AIDC-AI Ovis-Image; diffusers' config of ``Ovis-Image-7B``.
"""

from __future__ import annotations

from memcard.architectures._family import Family, has
from memcard.core.architecture import Defaults

PLUGIN = Family(
    title="Ovis-Image",
    source="https://github.com/AIDC-AI/Ovis-Image",
    diffusers=(
        has("context_embedder_norm.weight", says="norms the text before it projects it"),
        has("timestep_embedder.linear_1.weight"),
        has("single_transformer_blocks.0.proj_mlp.weight"),
        has("proj_out.weight"),
    ),
    text_encoders=("Qwen3-1.7B",),
    vae="SD3 or Flux, 16 channels",
    tokenizers=("qwen",),
    prediction="flow",
    defaults=Defaults(
        steps=50, cfg=5.0, sampler="euler", width=1024, height=1024, multiple=16,
        prediction_type="flow",
    ),
)  # fmt: skip
