"""Segmind Vega: SDXL with seven of ten layers distilled away.

Source: Segmind-Vega, model card and UNet config; Gupta et al. 2024, arXiv:2401.02677.
"""

from __future__ import annotations

from memcard.architectures._family import Family, Variant, has, lacks, width
from memcard.architectures._unet_signs import CONSISTENCY, depth, diffusers, ldm, text
from memcard.core.architecture import Defaults

_LABELS = ("label_emb.0.0.weight", "add_embedding.linear_1.weight")
_TEXT = "CLIP-L and CLIP-G side by side"
_SAYS = "two layers deep where SDXL has ten"

PLUGIN = Family(
    title="Segmind Vega",
    source="https://huggingface.co/segmind/Segmind-Vega",
    denoiser="unet",
    dialect="ldm",
    original=(
        *ldm(3),
        width(_LABELS, 1, 2816, says="pooled text and six sizes, as SDXL"),
        text("input_blocks.4.1", 2048, _TEXT),
        depth("input_blocks.4.1", 1),
        depth("input_blocks.7.1", 2, says=_SAYS),
        lacks("input_blocks.1.1."),
    ),
    diffusers=(
        *diffusers(3),
        width(_LABELS, 1, 2816, says="pooled text and six sizes, as SDXL"),
        text("down_blocks.1.attentions.0", 2048, _TEXT),
        depth("down_blocks.1.attentions.0", 1),
        depth("down_blocks.2.attentions.0", 2, says=_SAYS),
        lacks("down_blocks.0.attentions.", "encoder_hid_proj."),
    ),
    variants=(
        Variant("latent consistency", (has(*CONSISTENCY, says="is told the guidance scale"),)),
    ),
    text_encoders=("CLIP-L", "CLIP-G"),
    vae="SD or SDXL, 4 channels",
    tokenizers=("clip",),
    prediction="epsilon",
    defaults=Defaults(steps=25, cfg=9.0, width=1024, height=1024),
)
