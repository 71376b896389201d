"""Ideogram 4: two transformers of one shape, one that reads the text and one that does not.

Which of the two a file is stands in its metadata alone, if anywhere.

Source: ideogram-oss ideogram4, ``docs/model_architecture.md``; diffusers 0.42
``transformer_ideogram4.py``.
"""

from __future__ import annotations

from memcard.architectures._family import Family, Variant, has, said
from memcard.core.architecture import Defaults

_IMAGE = has("embed_image_indicator.weight", says="marks which tokens are picture")

PLUGIN = Family(
    title="Ideogram 4",
    source="https://github.com/ideogram-oss/ideogram4",
    original=(_IMAGE, has("input_proj.weight"), has("layers.0.attention.qkv.weight")),
    diffusers=(_IMAGE, has("input_proj.weight"), has("layers.0.attention.to_q.weight")),
    variants=(
        Variant("conditional half", (said("model_type", "ideogram4_cond"),)),
        Variant("unconditional half", (said("model_type", "ideogram4_uncond"),)),
    ),
    text_encoders=("Qwen3-VL-8B",),
    vae="Flux.2, 32 channels",
    tokenizers=("qwen",),
    prediction="flow",
    defaults=Defaults(
        steps=48, cfg=7.0, sampler="euler", width=2048, height=2048, multiple=16,
        prediction_type="flow",
    ),
)  # fmt: skip
