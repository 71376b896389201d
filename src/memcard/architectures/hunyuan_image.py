"""HunyuanImage 2.1 and its refiner. HunyuanVideo's blocks, without CLIP's pooled text.

Source: Tencent-Hunyuan HunyuanImage-2.1; diffusers' configs of ``HunyuanImage-2.1-Diffusers``,
``-Distilled-`` and ``-Refiner-Diffusers``.
"""

from __future__ import annotations

from memcard.architectures._family import Family, Variant, has, lacks, rank
from memcard.core.architecture import Defaults

_FIRST = ("img_in.proj.weight", "x_embedder.proj.weight")
_TWICE = ("time_r_in.mlp.0.weight", "time_guidance_embed.timestep_embedder_r.linear_1.weight")

PLUGIN = Family(
    title="HunyuanImage 2.1",
    source="https://github.com/Tencent-Hunyuan/HunyuanImage-2.1",
    original=(
        has("txt_in.individual_token_refiner.blocks.0.norm1.weight", says="refines the text"),
        has("img_in.proj.weight"),
        has("double_blocks.0.img_mod.linear.weight"),
        has("final_layer.linear.weight"),
        lacks("vector_in.", says="takes no pooled text: no HunyuanVideo"),
        lacks("vision_in.", "cond_type_embedding."),
    ),
    diffusers=(
        has(
            "context_embedder.token_refiner.refiner_blocks.0.norm1.weight", says="refines the text"
        ),
        has("time_guidance_embed.timestep_embedder.linear_1.weight"),
        has("x_embedder.proj.weight"),
        has("transformer_blocks.0.norm1_context.linear.weight"),
        has("proj_out.weight"),
    ),
    variants=(
        Variant("refiner", (rank(_FIRST, 5, says="a picture as one frame: the refiner"),),
                text_encoders=("Qwen2.5-VL-7B",),
                vae="HunyuanVideo 1.5 or Hunyuan-Image refiner, 32 channels"),
        Variant("distilled",
                (rank(_FIRST, 4), has(*_TWICE, says="knows where a step leads: 8 steps"))),
    ),
    text_encoders=("Qwen2.5-VL-7B", "ByT5-small"),
    vae="Hunyuan-Image 2.1, 64 channels",
    tokenizers=("qwen", "byt5"),
    prediction="flow",
    defaults=Defaults(
        steps=50, cfg=3.5, sampler="euler", width=2048, height=2048, multiple=32,
        prediction_type="flow",
    ),
)  # fmt: skip
