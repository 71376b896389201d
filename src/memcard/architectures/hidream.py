"""HiDream-I1 and E1. Full, Dev and Fast have the same names and shapes; diffusers kept the names.

Source: HiDream-ai HiDream-I1; diffusers' config of ``HiDream-I1-Full``.
"""

from __future__ import annotations

from memcard.architectures._family import Family, has
from memcard.core.architecture import Defaults

PLUGIN = Family(
    title="HiDream-I1",
    source="https://github.com/HiDream-ai/HiDream-I1",
    diffusers=(
        has("caption_projection.0.linear.weight"),
        has("double_stream_blocks.0.block.adaLN_modulation.1.weight"),
        has(
            "p_embedder.pooled_embedder.linear_1.weight", says="takes the pooled texts of two CLIPs"
        ),
    ),
    text_encoders=("CLIP-L", "CLIP-G", "T5-XXL", "Llama-3.1-8B"),
    vae="SD3 or Flux, 16 channels",
    tokenizers=("clip", "t5", "llama"),
    prediction="flow",
    defaults=Defaults(
        steps=50, cfg=5.0, sampler="euler", width=1024, height=1024, multiple=16,
        prediction_type="flow",
    ),
)  # fmt: skip
