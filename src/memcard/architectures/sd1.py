"""Stable Diffusion 1.x and its fine-tunes and merges, as single files.

Known by the skeleton of the UNet, not by its width, so that small twins for tests are found too.

Source: CompVis stable-diffusion, ``configs/stable-diffusion/v1-inference.yaml``; diffusers'
``stable-diffusion-v1-5`` configs for heads, betas and ``steps_offset``.
"""

from __future__ import annotations

from memcard.architectures._clip import TextEncoder
from memcard.architectures._latent_diffusion import LatentDiffusion
from memcard.architectures._unet import UNet
from memcard.core.architecture import Defaults

_ATTENTION = (True, True, True, False)
_CLIP_L = 768
_CLIP_LAYERS = 12
_OTHERS = {1024: "SD 2", 1280: "the SDXL refiner", 2048: "SDXL"}


def _rule(unet: UNet, text: TextEncoder | None) -> tuple[str, ...] | None:
    shape = (unet.in_channels, unet.attention, unet.layers, unet.depth)
    if shape != (4, _ATTENTION, 2, 1) or unet.labels or unet.linear or unet.cross in _OTHERS:
        return None
    if text and (text.width != unet.cross or text.layers != _CLIP_LAYERS):
        return None
    known = "CLIP-L" if unet.cross == _CLIP_L else "a narrow twin (CLIP-L has 768)"
    return (
        f"{unet.prefix}input_blocks.0.0 takes 4 channels: text to image, no inpainting",
        "attention at the first three of four resolutions, one layer deep, 1x1 convolutions around",
        f"attn2.to_k is {unet.cross} wide: {known}",
        "no label_emb: not SDXL",
        *([f"{text.prefix}* has {_CLIP_LAYERS} layers: CLIP-L"] if text else []),
    )


PLUGIN = LatentDiffusion(
    title="Stable Diffusion 1.x",
    source="https://github.com/CompVis/stable-diffusion",
    defaults=Defaults(
        steps=20,
        cfg=7.0,
        sampler="dpmpp_2m",
        width=512,
        height=512,
        multiple=8,
        prediction_type="epsilon",
        extra={
            "tokenizer": "clip",
            "scheduler": {
                "num_train_timesteps": 1000,
                "beta_start": 0.00085,
                "beta_end": 0.012,
                "beta_schedule": "scaled_linear",
                "steps_offset": 1,
                "clip_sample": False,
                "set_alpha_to_one": False,
                # no timestep_spacing, as in the family's own config: each sampler keeps its usual one
            },
        },
    ),
    rule=_rule,
    heads=8,
    groups=32,
    vae_groups=32,
    scaling=0.18215,
    text_head=64,
)
