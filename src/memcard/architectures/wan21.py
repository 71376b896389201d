"""Wan 2.1: text and image to video, VACE, Fun control, and what was tuned from them (SkyReels 2).

Source: see ``_wan``; https://github.com/ali-vilab/VACE.
"""

from __future__ import annotations

from memcard.architectures._family import (
    Family,
    Variant,
    all_of,
    any_of,
    count,
    has,
    lacks,
    unsaid,
    width,
)
from memcard.architectures._wan import (
    BLOCKS,
    DIFFUSERS,
    FACE,
    FIRST,
    IMAGE,
    ORIGINAL,
    PAIR,
    SPEECH,
)
from memcard.core.architecture import Defaults

_VACE = "vace_patch_embedding.weight"
_STEPS = ("fps_embedding.weight",)
# Wan 2.2 gives up the image encoder, and its small model has 48 channels
_OWN = (
    any_of(
        width(FIRST, 1, 16),
        has(*IMAGE, says="an image encoder: 2.1"),
        all_of(width(FIRST, 1, 48), width(FIRST, 0, 1536, 5120)),
    ),
    lacks(*FACE, *SPEECH),
    unsaid(*PAIR),
)
_PLAIN = (width(FIRST, 1, 16), lacks(_VACE, *IMAGE, *_STEPS))

PLUGIN = Family(
    title="Wan 2.1",
    source="https://github.com/Wan-Video/Wan2.1",
    original=(*ORIGINAL, *_OWN),
    diffusers=(*DIFFUSERS, *_OWN),
    variants=(
        Variant("VACE", (has(_VACE, says="takes frames to go by: VACE"),)),
        Variant("diffusion forcing", (has(*_STEPS, says="told the frame rate: SkyReels 2"),)),
        Variant(
            "text to video",
            (*_PLAIN, count(BLOCKS, 40, says="2.1, or one half of Wan 2.2: the same tensors")),
        ),
        Variant("text to video", (*_PLAIN, count(BLOCKS, 30))),
        Variant("image to video",
                (width(FIRST, 1, 36, says="a picture and a mask beside the noise"),),
                image_encoder="CLIP-H vision"),
        Variant("control",
                (width(FIRST, 1, 48, 32, 52, says="a drawing beside the noise: Fun control"),),
                image_encoder="CLIP-H vision"),
        Variant("1.3B", (count(BLOCKS, 30, says="1.3B"),)),
        Variant("14B", (count(BLOCKS, 40, says="14B"),)),
    ),
    text_encoders=("UMT5-XXL",),
    vae="Wan 2.1, 16 channels",
    tokenizers=("umt5",),
    prediction="flow",
    modality="video",
    defaults=Defaults(
        steps=50, cfg=5.0, sampler="unipc", width=832, height=480, multiple=16,
        prediction_type="flow", extra={"frames": 81, "settings": {"frames": 81, "fps": 16}},
    ),
)  # fmt: skip
