"""HunyuanVideo 1.5. Text and image to video, 480p and 720p, have the same names and shapes.

Source: Tencent-Hunyuan HunyuanVideo-1.5; diffusers ``convert_hunyuan_video1_5_to_diffusers.py``.
"""

from __future__ import annotations

from memcard.architectures._family import Family, Variant, has, width
from memcard.core.architecture import Defaults

_FIRST = ("img_in.proj.weight", "x_embedder.proj.weight")

PLUGIN = Family(
    title="HunyuanVideo 1.5",
    source="https://github.com/Tencent-Hunyuan/HunyuanVideo-1.5",
    original=(
        has("cond_type_embedding.weight", says="marks text, glyphs and picture"),
        has("vision_in.proj.0.weight"),
        has("byt5_in.fc1.weight", says="reads glyphs"),
        has("img_in.proj.weight"),
        has("double_blocks.0.img_mod.linear.weight"),
    ),
    diffusers=(
        has("cond_type_embed.weight", says="marks text, glyphs and picture"),
        has("image_embedder.norm_in.weight"),
        has("context_embedder_2.linear_1.weight", says="reads glyphs"),
        has("x_embedder.proj.weight"),
        has("transformer_blocks.0.norm1_context.linear.weight"),
    ),
    variants=(
        Variant("text or image to video", (width(_FIRST, 1, 65),)),
        Variant("super resolution", (width(_FIRST, 1, 98, says="a small video beside the noise"),)),
    ),
    text_encoders=("Qwen2.5-VL-7B", "ByT5-small"),
    vae="HunyuanVideo 1.5 or Hunyuan-Image refiner, 32 channels",
    image_encoder="SigLIP vision",
    tokenizers=("qwen", "byt5"),
    prediction="flow",
    modality="video",
    defaults=Defaults(
        steps=50, cfg=6.0, sampler="euler", width=848, height=480, multiple=16,
        prediction_type="flow", extra={"frames": 121},
    ),
)  # fmt: skip
