"""OmniGen2: Lumina's blocks, with a second way in for pictures to go by.

Source: VectorSpaceLab OmniGen2, ``omnigen2/models/transformers/transformer_omnigen2.py``.
"""

from __future__ import annotations

from memcard.architectures._family import Family, has, lacks
from memcard.core.architecture import Defaults

PLUGIN = Family(
    title="OmniGen2",
    source="https://github.com/VectorSpaceLab/OmniGen2",
    original=(
        has("time_caption_embed.timestep_embedder.linear_1.bias"),
        has("ref_image_patch_embedder.weight", says="reads pictures to go by"),
        has("ref_image_refiner.0.attn.to_q.weight"),
        has("layers.0.attn.to_q.weight"),
        lacks("double_stream_layers."),
    ),
    text_encoders=("Qwen2.5-VL-3B",),
    vae="SD3 or Flux, 16 channels",
    tokenizers=("qwen",),
    prediction="flow",
    defaults=Defaults(
        steps=50, cfg=5.0, sampler="euler", width=1024, height=1024, multiple=16,
        prediction_type="flow",
    ),
)  # fmt: skip
