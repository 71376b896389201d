"""Kolors: SDXL's UNet that reads ChatGLM3 through a projection.

Source: Kwai-Kolors/Kolors, ``unet/config.json``.
"""

from __future__ import annotations

from memcard.architectures._family import Family, Variant, lacks, width
from memcard.architectures._unet_signs import FIRST, depth, diffusers, ldm
from memcard.core.architecture import Defaults

_LABELS = ("label_emb.0.0.weight", "add_embedding.linear_1.weight")
_SAYS = "ChatGLM3's pooled text and six sizes"

PLUGIN = Family(
    title="Kolors",
    source="https://github.com/Kwai-Kolors/Kolors",
    denoiser="unet",
    dialect="ldm",
    original=(
        *ldm(3),
        width(_LABELS, 1, 5632, says=_SAYS),
        depth("input_blocks.7.1", 10),
        lacks("input_blocks.1.1."),
    ),
    diffusers=(
        *diffusers(3),
        width(_LABELS, 1, 5632, says=_SAYS),
        width("encoder_hid_proj.weight", 1, 4096, says="reads ChatGLM3"),
        depth("down_blocks.2.attentions.0", 10),
        lacks("down_blocks.0.attentions."),
    ),
    variants=(
        Variant("inpainting", (width(FIRST, 1, 9, says="picture, mask and masked picture"),)),
        Variant("image to image with a picture beside", (width(FIRST, 1, 8),)),
    ),
    text_encoders=("ChatGLM3-6B",),
    vae="SD or SDXL, 4 channels",
    tokenizers=("chatglm",),
    prediction="epsilon",
    defaults=Defaults(steps=50, cfg=5.0, sampler="euler", width=1024, height=1024),
)
