"""Wan 2.2: the 5B model with its own VAE, and the 14B pairs of a high-noise and a low-noise half.

The halves of a pair have the same names and shapes. Those of text to video, when alone, are found
as Wan 2.1, whose tensors they share: see ``_wan``.

Source: see ``_wan``.
"""

from __future__ import annotations

from memcard.architectures._family import Family, Variant, any_of, has, lacks, said, width
from memcard.architectures._wan import (
    DIFFUSERS,
    FACE,
    FIRST,
    IMAGE,
    ORIGINAL,
    PAIR,
    SMALL22,
    SPEECH,
)
from memcard.core.architecture import Defaults, Need

_HALF = (Need("low-noise half", "or the high-noise one, if this is the low-noise half"),)
_OWN = (
    any_of(
        has(*FACE, says="moves a face: Animate"),
        has(*SPEECH, says="listens: speech to video"),
        said(*PAIR),
        SMALL22,
        width(FIRST, 1, 36, 52),
    ),
    any_of(
        lacks(*IMAGE, says="no image encoder: 2.2"),
        has(*FACE),
    ),
)

PLUGIN = Family(
    title="Wan 2.2",
    source="https://github.com/Wan-Video/Wan2.2",
    original=(*ORIGINAL, *_OWN),
    diffusers=(*DIFFUSERS, *_OWN),
    variants=(
        Variant("text and image to video 5B", (width(FIRST, 1, 48),), vae="Wan 2.2, 48 channels"),
        Variant("control 5B",
                (width(FIRST, 1, 100, says="a drawing beside the noise: Fun control"),),
                vae="Wan 2.2, 48 channels"),
        Variant("text to video 14B", (said(*PAIR), width(FIRST, 1, 16)), also=_HALF),
        Variant("image to video 14B",
                (width(FIRST, 1, 36, says="one half of a pair, high or low noise"), lacks(*FACE)),
                also=_HALF),
        Variant("control 14B", (width(FIRST, 1, 52, says="a picture and a drawing: Fun control"),),
                also=_HALF),
        Variant("animate 14B", (has(*FACE),), image_encoder="CLIP-H vision"),
        Variant("speech to video 14B", (has(*SPEECH),)),
    ),
    text_encoders=("UMT5-XXL",),
    vae="Wan 2.1, 16 channels",
    tokenizers=("umt5",),
    prediction="flow",
    modality="video",
    defaults=Defaults(
        steps=40, cfg=5.0, sampler="unipc", width=1280, height=704, multiple=32,
        prediction_type="flow", extra={"frames": 81},
    ),
)  # fmt: skip
