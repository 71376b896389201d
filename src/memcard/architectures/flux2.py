"""Flux.2: dev and the two Klein models. Klein and Klein base have the same names and shapes.

Told apart by the number of blocks, which no packing hides.

Source: black-forest-labs flux2, ``model.py``; diffusers' configs of ``FLUX.2-dev``,
``FLUX.2-klein-4B`` and ``FLUX.2-klein-9B``.
"""

from __future__ import annotations

from memcard.architectures._family import Family, Variant, count, has
from memcard.core.architecture import Defaults

_SINGLE = (
    "single_blocks.{}.linear1.weight",
    "single_transformer_blocks.{}.attn.to_qkv_mlp_proj.weight",
)

PLUGIN = Family(
    title="Flux.2",
    source="https://github.com/black-forest-labs/flux2",
    original=(
        has("double_stream_modulation_img.lin.weight", says="one modulation for all blocks"),
        has("single_stream_modulation.lin.weight"),
        has("img_in.weight"),
        has("double_blocks.0.img_attn.qkv.weight"),
    ),
    diffusers=(
        has("double_stream_modulation_img.linear.weight", says="one modulation for all blocks"),
        has("single_stream_modulation.linear.weight"),
        has("x_embedder.weight"),
        has("transformer_blocks.0.attn.add_k_proj.weight"),
    ),
    variants=(
        Variant("dev", (count(_SINGLE, 48, says="dev"),)),
        Variant("klein 4B", (count(_SINGLE, 20, says="klein 4B"),), text_encoders=("Qwen3-4B",)),
        Variant("klein 9B", (count(_SINGLE, 24, says="klein 9B"),), text_encoders=("Qwen3-8B",)),
    ),
    text_encoders=("Mistral-Small-3",),
    vae="Flux.2, 32 channels",
    tokenizers=("mistral", "qwen"),
    prediction="flow",
    defaults=Defaults(
        steps=50, cfg=4.0, sampler="euler", width=1024, height=1024, multiple=16,
        prediction_type="flow",
    ),
)  # fmt: skip
