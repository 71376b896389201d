"""Qwen-Image 2.1: one stream, one modulation for all blocks.

Source: diffusers 0.42 ``transformer_qwenimage21.py`` and
``convert_qwen_image21_transformer_checkpoint_to_diffusers``.
"""

from __future__ import annotations

from memcard.architectures._family import Family, has
from memcard.core.architecture import Defaults

_TEXT = has("txt_in.text_norm.weight", says="norms the text before it projects it")

PLUGIN = Family(
    title="Qwen-Image 2.1",
    source="https://huggingface.co/Qwen/Qwen-Image-2.1",
    original=(_TEXT, has("img_in.weight"), has("transformer_blocks.0.img_mlp.gate_up.weight")),
    diffusers=(_TEXT, has("img_in.weight"), has("transformer_blocks.0.img_mlp.gate_layer.weight")),
    text_encoders=("Qwen3-VL-8B",),
    vae="Qwen-Image 2.1, 64 channels",
    tokenizers=("qwen",),
    prediction="flow",
    defaults=Defaults(
        steps=40, cfg=1.0, sampler="euler", width=1024, height=1024, multiple=16,
        prediction_type="flow",
    ),
)  # fmt: skip
