"""KOALA 700M and 1B: SDXL with one resnet a resolution and fewer layers.

Source: Lee et al. 2023, "KOALA", arXiv:2312.04005; ``etri-vilab/koala-*`` UNet configs.
"""

from __future__ import annotations

from memcard.architectures._family import Family, Variant, lacks, width
from memcard.architectures._unet_signs import depth, diffusers, ldm, text
from memcard.core.architecture import Defaults

_LABELS = ("label_emb.0.0.weight", "add_embedding.linear_1.weight")
_TEXT = "CLIP-L and CLIP-G side by side"
_COARSE = ("input_blocks.5.1", "down_blocks.2.attentions.0")
_LAYER = ".transformer_blocks.5.attn2.to_k.weight"

PLUGIN = Family(
    title="KOALA",
    source="https://github.com/youngwanLEE/sdxl-koala",
    denoiser="unet",
    dialect="ldm",
    original=(
        *ldm(3, resnets=1),
        width(_LABELS, 1, 2816, says="pooled text and six sizes, as SDXL"),
        text("input_blocks.3.1", 2048, _TEXT),
        depth("input_blocks.3.1", 2),
        depth("input_blocks.5.1", 5, 6, says="one attention a resolution"),
        lacks("input_blocks.1.1."),
    ),
    diffusers=(
        *diffusers(3, resnets=1),
        width(_LABELS, 1, 2816, says="pooled text and six sizes, as SDXL"),
        text("down_blocks.1.attentions.0", 2048, _TEXT),
        depth("down_blocks.1.attentions.0", 2),
        depth("down_blocks.2.attentions.0", 5, 6, says="one attention a resolution"),
        lacks("down_blocks.0.attentions.", "encoder_hid_proj."),
    ),
    variants=(
        Variant("700M", (lacks(*(coarse + _LAYER for coarse in _COARSE), says="five layers"),)),
        Variant("1B", (width(tuple(c + _LAYER for c in _COARSE), 1, 2048, says="six layers"),)),
    ),
    text_encoders=("CLIP-L", "CLIP-G"),
    vae="SD or SDXL, 4 channels",
    tokenizers=("clip",),
    prediction="epsilon",
    defaults=Defaults(steps=25, cfg=3.5, width=1024, height=1024),
)
