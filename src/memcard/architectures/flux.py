"""Flux.1 and its tools. Dev, Kontext, Krea and most fine-tunes have the same names and shapes.

Source: black-forest-labs flux, ``model.py``; diffusers' configs of ``FLUX.1-dev``, ``-schnell``,
``-Fill-dev``, ``-Canny-dev`` and ``-Depth-dev``.
"""

from __future__ import annotations

from memcard.architectures._family import Family, Variant, any_of, has, lacks, said, unsaid, width
from memcard.core.architecture import Defaults

_GUIDANCE = ("guidance_in.in_layer.weight", "time_text_embed.guidance_embedder.linear_1.weight")
_FIRST = ("img_in.weight", "x_embedder.weight")
# No weight tells Kontext from dev; what a file says about itself may. ``general.*`` is of GGUF.
_TEXTS = ("modelspec.architecture", "modelspec.title", "general.name", "general.basename")
_KONTEXT = (
    ("diffusers/model_index.json", "fluxkontextpipeline"),
    *((key, "kontext") for key in _TEXTS),
)

PLUGIN = Family(
    title="Flux.1",
    source="https://github.com/black-forest-labs/flux",
    original=(
        has(
            "double_blocks.0.img_attn.norm.key_norm.scale",
            "double_blocks.0.img_attn.norm.key_norm.weight",
        ),
        has("single_blocks.0.linear1.weight"),
        has("vector_in.in_layer.weight", says="takes the pooled text of CLIP"),
        has("img_in.weight"),
        has("final_layer.linear.weight"),
        lacks("distilled_guidance_layer."),
    ),
    diffusers=(
        has("single_transformer_blocks.0."),  # SVDQuant fuses what lies below
        has("time_text_embed.text_embedder.linear_1.weight", says="takes the pooled text of CLIP"),
        has("context_embedder.weight"),
        has("x_embedder.weight"),
        has("proj_out.weight"),
        lacks("distilled_guidance_layer."),
    ),
    variants=(
        Variant("Kontext", (any_of(*(said(*one) for one in _KONTEXT)),)),
        Variant(
            "dev",
            (*(unsaid(*one) for one in _KONTEXT), width(_FIRST, 1, 64),
             has(*_GUIDANCE, says="dev; Kontext and Krea have the same tensors")),
        ),
        Variant(
            "schnell",
            (lacks(*_GUIDANCE, says="distilled to four steps without guidance"),
             width(_FIRST, 1, 64)),
        ),
        Variant("fill", (width(_FIRST, 1, 384, says="a masked picture beside the noise: fill"),)),
        Variant("canny or depth", (width(_FIRST, 1, 128, says="a drawing beside the noise"),)),
    ),
    text_encoders=("CLIP-L", "T5-XXL"),
    vae="SD3 or Flux, 16 channels",
    tokenizers=("clip", "t5"),
    prediction="flow",
    defaults=Defaults(
        steps=28, cfg=1.0, sampler="euler", width=1024, height=1024, multiple=16,
        prediction_type="flow",
        extra={"settings": {"guidance": 3.5}},  # distilled: an input of the model
    ),
)  # fmt: skip
