"""Stable Diffusion 2.x: base, 768-v, inpainting, depth, unCLIP.

Base (epsilon) and 768 (v-prediction) have the same names and shapes: nothing in a header tells which.

Source: Stability-AI stablediffusion, ``configs/stable-diffusion/*.yaml``; diffusers'
``stable-diffusion-2*`` configs.
"""

from __future__ import annotations

from memcard.architectures._family import Family, Variant, has, lacks, rank, width
from memcard.architectures._unet_signs import CONSISTENCY, FIRST, depth, diffusers, ldm, text
from memcard.core.architecture import Defaults

_LABELS = ("label_emb.0.0.weight", "class_embedding.linear_1.weight")
_LINEAR = "matrices around attention: not SD 1"

PLUGIN = Family(
    title="Stable Diffusion 2.x",
    source="https://github.com/Stability-AI/stablediffusion",
    denoiser="unet",
    dialect="ldm",
    original=(
        *ldm(4),
        text("input_blocks.1.1", 1024, "OpenCLIP-H"),
        depth("input_blocks.1.1", 1),
        rank("input_blocks.1.1.proj_in.weight", 2, says=_LINEAR),
        lacks("input_blocks.10.1."),
    ),
    diffusers=(
        *diffusers(4),
        text("down_blocks.0.attentions.0", 1024, "OpenCLIP-H"),
        depth("down_blocks.0.attentions.0", 1),
        rank("down_blocks.0.attentions.0.proj_in.weight", 2, says=_LINEAR),
        lacks("down_blocks.3.attentions.", "add_embedding.", "encoder_hid_proj."),
    ),
    variants=(
        Variant(
            "inpainting",
            (width(FIRST, 1, 9, says="picture, mask and masked picture"),),
            prediction="epsilon",
        ),
        Variant("depth", (width(FIRST, 1, 5, says="picture and depth"),), prediction="epsilon"),
        Variant(
            "unCLIP-H",
            (width(_LABELS, 1, 2048, says="CLIP-H image embedding and its noise level"),),
            prediction="v_prediction",
            image_encoder="CLIP-H vision",
        ),
        Variant(
            "unCLIP-L",
            (width(_LABELS, 1, 1536, says="CLIP-L image embedding and its noise level"),),
            prediction="v_prediction",
            image_encoder="CLIP-L vision",
        ),
        Variant("latent consistency", (has(*CONSISTENCY, says="is told the guidance scale"),)),
    ),
    text_encoders=("OpenCLIP-H",),
    vae="SD or SDXL, 4 channels",
    tokenizers=("clip",),
    prediction=None,
    defaults=Defaults(steps=25, cfg=7.5, width=768, height=768),
)
