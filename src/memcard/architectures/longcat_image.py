"""LongCat-Image and its editor: Flux's blocks without pooled text. Bria has the same names.

Source: meituan-longcat LongCat-Image; diffusers' config of the same name.
"""

from __future__ import annotations

from memcard.architectures._family import Family, has, lacks, width
from memcard.core.architecture import Defaults

PLUGIN = Family(
    title="LongCat-Image",
    source="https://github.com/meituan-longcat/LongCat-Image",
    diffusers=(
        has("time_embed.timestep_embedder.linear_1.weight", says="takes no pooled text: no Flux"),
        has("single_transformer_blocks.0.proj_mlp.weight"),
        width("context_embedder.weight", 1, 3584, says="Qwen2.5-VL; Bria has 4096"),
        has("x_embedder.weight"),
        has("proj_out.weight"),
        lacks("caption_projection."),
    ),
    text_encoders=("Qwen2.5-VL-7B",),
    vae="SD3 or Flux, 16 channels",
    tokenizers=("qwen",),
    prediction="flow",
    defaults=Defaults(
        steps=50, cfg=4.5, sampler="euler", width=1024, height=1024, multiple=16,
        prediction_type="flow",
    ),
)  # fmt: skip
