"""Qwen-Image, Edit and Layered. The first Edit and 2509 have the base's names and shapes.

ComfyUI's file of Edit 2511 carries an empty tensor as its marker.

Source: QwenLM Qwen-Image; diffusers' configs of ``Qwen-Image``, ``-Edit-2511``, ``-Layered``.
"""

from __future__ import annotations

from memcard.architectures._family import Family, Variant, has
from memcard.core.architecture import Defaults

PLUGIN = Family(
    title="Qwen-Image",
    source="https://github.com/QwenLM/Qwen-Image",
    diffusers=(
        has("txt_norm.weight"),
        has("img_in.weight"),
        has("transformer_blocks.0.img_mod.1."),  # a weight, or SVDQuant's pieces of one
        has("transformer_blocks.0.txt_mod.1."),
        has("proj_out.weight"),
    ),
    variants=(
        Variant("edit 2511", (has("__index_timestep_zero__", says="the marker of Edit 2511"),)),
        Variant(
            "layered",
            (has("time_text_embed.addition_t_embedding.weight", says="told of its layers"),),
            vae="Qwen-Image Layered, 16 channels with transparency",
        ),
    ),
    text_encoders=("Qwen2.5-VL-7B",),
    vae="Wan 2.1, 16 channels",
    tokenizers=("qwen",),
    prediction="flow",
    defaults=Defaults(
        steps=50, cfg=4.0, sampler="euler", width=1328, height=1328, multiple=16,
        prediction_type="flow",
    ),
)  # fmt: skip
