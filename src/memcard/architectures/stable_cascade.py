"""Stable Cascade: stage C thinks in 24 x 24 latents, stage B turns them into those of stage A.

Source: Stability-AI StableCascade, ``modules/stage_b.py``, ``stage_c.py``; Pernias et al. 2023,
"Wuerstchen", arXiv:2306.00637; diffusers ``unet_stable_cascade.py``.
"""

from __future__ import annotations

from memcard.architectures._family import Family, Variant, any_of, has, lacks, width
from memcard.core.architecture import Defaults, Need

_COMMON = (
    width("clf.1.weight", 0, 16),
    width("embedding.1.weight", 1, 16),
    has("down_blocks.0.0.channelwise.2.gamma"),
    any_of(
        has("clip_txt_mapper.weight", says="reads a text: stage C"),
        has("effnet_mapper.0.weight", says="reads stage C's latents: stage B"),
    ),
)
_FIRST_ATTENTION = ("down_blocks.0.2.attention.", "down_blocks.2.2.attention.")
_C = lacks("effnet_mapper.")
_B = lacks("clip_txt_mapper.")
_FOR_C = (Need("base model", "Stable Cascade stage B"),)
_FOR_B = (Need("base model", "Stable Cascade stage C"),)
_WIDE = "embedding.1.weight"
_SECOND = "down_downscalers.1.1.weight"

PLUGIN = Family(
    title="Stable Cascade",
    source="https://github.com/Stability-AI/StableCascade",
    denoiser="unet",
    original=(*_COMMON, has(*(f"{start}attn.in_proj_weight" for start in _FIRST_ATTENTION))),
    diffusers=(*_COMMON, has(*(f"{start}to_q.weight" for start in _FIRST_ATTENTION))),
    variants=(
        Variant("stage C, 3.6B", (_C, width(_WIDE, 0, 2048)), also=_FOR_C),
        Variant("stage C, lite 1B", (_C, width(_WIDE, 0, 1536)), also=_FOR_C),
        Variant("stage B, 1.5B", (_B, width(_SECOND, 0, 640)), also=_FOR_B),
        Variant("stage B, lite 700M", (_B, width(_SECOND, 0, 576)), also=_FOR_B),
    ),
    text_encoders=("CLIP-G",),
    vae="Stable Cascade stage A",
    tokenizers=("clip",),
    prediction="epsilon",
    defaults=Defaults(steps=20, cfg=4.0, width=1024, height=1024, multiple=64),
)
