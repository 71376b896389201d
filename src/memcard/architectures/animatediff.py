"""AnimateDiff's motion modules: layers over time that go between those of Stable Diffusion.

Source: guoyww AnimateDiff, ``animatediff/models/motion_module.py``; Guo et al. 2023,
arXiv:2307.04725; diffusers ``unet_motion_model.py``, class MotionAdapter.
"""

from __future__ import annotations

from memcard.architectures._family import Family, Variant, has, lacks, width
from memcard.core.architecture import Defaults, Need

_BLOCK = "down_blocks.0.motion_modules.0."
_PLACES = (
    f"{_BLOCK}temporal_transformer.transformer_blocks.0.attention_blocks.0.pos_encoder.pe",
    f"{_BLOCK}transformer_blocks.0.pos_embed.pe",
)
_MIDDLE = "mid_block.motion_modules."
_FINEST = "down_blocks.3.motion_modules."
_NO_UNET = lacks("conv_in.weight", "input_blocks.", "down_blocks.0.resnets.")
_SD1 = (Need("base model", "Stable Diffusion 1.x"),)

PLUGIN = Family(
    title="AnimateDiff motion module",
    source="https://github.com/guoyww/AnimateDiff",
    denoiser="unet",
    kind="motion_module",
    original=(
        has(f"{_BLOCK}temporal_transformer.proj_in.weight", says="attention over time"),
        has(_PLACES[0]),
        _NO_UNET,
    ),
    diffusers=(
        has(f"{_BLOCK}proj_in.weight", says="attention over time"),
        has(_PLACES[1]),
        _NO_UNET,
    ),
    variants=(
        Variant(
            "v1 for SD 1.x",
            (has(_FINEST), lacks(_MIDDLE), width(_PLACES, 1, 24, says="24 frames")),
            also=_SD1,
        ),
        Variant(
            "v2 for SD 1.x",
            (has(_FINEST), has(_MIDDLE, says="also in the middle"), width(_PLACES, 1, 32)),
            also=_SD1,
        ),
        Variant(
            "v3 for SD 1.x",
            (has(_FINEST), lacks(_MIDDLE), width(_PLACES, 1, 32, says="32 frames")),
            also=_SD1,
        ),
        Variant(
            "for SDXL",
            (lacks(_FINEST, says="three resolutions"),),
            also=(Need("base model", "Stable Diffusion XL"),),
        ),
    ),
    prediction="epsilon",
    modality="video",
    defaults=Defaults(steps=25, cfg=7.5, width=512, height=512),
)
