"""HunyuanVideo, SkyReels 1 and FramePack. Has ``double_blocks`` as Flux has; inside they differ.

The picture-to-video model that replaces a token has the names and shapes of text to video.

Source: Tencent-Hunyuan HunyuanVideo, ``hyvideo/modules/models.py``; diffusers' configs of
``HunyuanVideo``, ``HunyuanVideo-I2V``, ``SkyReels-V1-Hunyuan-I2V``, ``FramePackI2V_HY``.
"""

from __future__ import annotations

from memcard.architectures._family import Family, Variant, has, lacks, width
from memcard.core.architecture import Defaults

_FIRST = ("img_in.proj.weight", "x_embedder.proj.weight")

PLUGIN = Family(
    title="HunyuanVideo",
    source="https://github.com/Tencent-Hunyuan/HunyuanVideo",
    original=(
        has("txt_in.individual_token_refiner.blocks.0.norm1.weight", says="refines the text"),
        has("vector_in.in_layer.weight", says="takes the pooled text of CLIP"),
        has("img_in.proj.weight"),
        has("double_blocks.0.img_mod.linear.weight"),
        has("final_layer.linear.weight"),
    ),
    diffusers=(
        has(
            "context_embedder.token_refiner.refiner_blocks.0.norm1.weight", says="refines the text"
        ),
        has("time_text_embed.text_embedder.linear_1.weight", says="takes the pooled text of CLIP"),
        has("x_embedder.proj.weight"),
        has("transformer_blocks.0.norm1_context.linear.weight"),
        has("proj_out.weight"),
    ),
    variants=(
        Variant("FramePack",
                (has("clean_x_embedder.proj.weight", says="sees clean frames: FramePack"),),
                image_encoder="SigLIP vision"),
        Variant("text to video", (width(_FIRST, 1, 16), lacks("clean_x_embedder."))),
        Variant("image to video",
                (width(_FIRST, 1, 33, says="a picture and a mask beside the noise"),)),
        Variant("SkyReels image to video",
                (width(_FIRST, 1, 32, says="a picture beside the noise"),)),
    ),
    text_encoders=("LLaVA-Llama-3-8B", "CLIP-L"),
    vae="HunyuanVideo, 16 channels",
    tokenizers=("llama", "clip"),
    prediction="flow",
    modality="video",
    defaults=Defaults(
        steps=50, cfg=6.0, sampler="euler", width=1280, height=720, multiple=16,
        prediction_type="flow", extra={"frames": 129},
    ),
)  # fmt: skip
