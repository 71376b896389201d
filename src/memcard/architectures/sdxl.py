"""Stable Diffusion XL and its fine-tunes: Pony, Illustrious, NoobAI, Turbo, Lightning, Playground 2.5.

Those have the same names and shapes; the ones that predict v or EDM's target carry marker tensors.

Source: Stability-AI generative-models, ``configs/inference/sd_xl_base.yaml``; diffusers'
``stable-diffusion-xl-base-1.0`` config.
"""

from __future__ import annotations

from memcard.architectures._family import Family, Variant, any_of, has, lacks, narrow, width
from memcard.architectures._unet_signs import CONSISTENCY, FIRST, depth, diffusers, ldm, text
from memcard.core.architecture import Defaults

_LABELS = ("label_emb.0.0.weight", "add_embedding.linear_1.weight")
_SAYS = "pooled text and six sizes: SDXL base"
_TEXT = "CLIP-L and CLIP-G side by side"

PLUGIN = Family(
    title="Stable Diffusion XL",
    source="https://github.com/Stability-AI/generative-models",
    denoiser="unet",
    dialect="ldm",
    original=(
        *ldm(3),
        any_of(width(_LABELS, 1, 2816, says=_SAYS), narrow(_LABELS, 1, 1536, says="a narrow twin")),
        text("input_blocks.4.1", 2048, _TEXT),
        depth("input_blocks.4.1", 2),
        depth("input_blocks.7.1", 10, says="ten layers deep at the coarsest resolution"),
        lacks("input_blocks.1.1.", "encoder_hid_proj."),
    ),
    diffusers=(
        *diffusers(3),
        any_of(width(_LABELS, 1, 2816, says=_SAYS), narrow(_LABELS, 1, 1536, says="a narrow twin")),
        text("down_blocks.1.attentions.0", 2048, _TEXT),
        depth("down_blocks.1.attentions.0", 2),
        depth("down_blocks.2.attentions.0", 10, says="ten layers deep at the coarsest resolution"),
        lacks("down_blocks.0.attentions.", "encoder_hid_proj."),
    ),
    variants=(
        Variant("inpainting", (width(FIRST, 1, 9, says="picture, mask and masked picture"),)),
        Variant("instruct-pix2pix", (width(FIRST, 1, 8, says="a picture beside the noise"),)),
        Variant("latent consistency", (has(*CONSISTENCY, says="is told the guidance scale"),)),
        Variant(
            "AnimateDiff inside",
            (has("down_blocks.0.motion_modules.", says="moves"),),
            modality="video",
        ),
    ),
    text_encoders=("CLIP-L", "CLIP-G"),
    vae="SD or SDXL, 4 channels",
    tokenizers=("clip",),
    prediction="epsilon",
    defaults=Defaults(steps=30, cfg=6.0, width=1024, height=1024),
)
