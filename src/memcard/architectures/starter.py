"""The miniature Stable Diffusion that ships with memcard: 64 x 64 pixels, emoji of four styles.

Source: ``docs/starter.md`` and ``docs/spec/starter.md``.
"""

from __future__ import annotations

from memcard.architectures._clip import TextEncoder
from memcard.architectures._latent_diffusion import LatentDiffusion
from memcard.architectures._unet import UNet
from memcard.core.architecture import Defaults

_ATTENTION = (False, True, True)


def _rule(unet: UNet, text: TextEncoder | None) -> tuple[str, ...] | None:
    shape = (unet.in_channels, unet.attention, unet.layers, unet.depth, unet.cross)
    if shape != (16, _ATTENTION, 1, 1, 128) or unet.labels or unet.linear:
        return None
    if text and text.width != unet.cross:
        return None
    return (
        f"{unet.prefix}input_blocks.0.0 takes 16 channels",
        "three resolutions with one resnet each, attention at the two coarser ones",
        "attn2.to_k is 128 wide: the starter's own text encoder",
        *([f"{text.prefix}* reads {text.length} tokens"] if text else []),
    )


PLUGIN = LatentDiffusion(
    title="memcard starter",
    source="docs/spec/starter.md",
    defaults=Defaults(
        steps=20,
        cfg=3.0,
        sampler="dpmpp_2m",
        width=64,
        height=64,
        multiple=8,
        prediction_type="v_prediction",
        extra={
            "tokenizer": "starter",
            "scheduler": {
                "num_train_timesteps": 1000,
                "beta_start": 0.00085,
                "beta_end": 0.012,
                "beta_schedule": "scaled_linear",
                "clip_sample": False,
                "set_alpha_to_one": False,
                "steps_offset": 1,
                "timestep_spacing": "trailing",
            },
        },
    ),
    rule=_rule,
    heads=4,
    groups=16,
    vae_groups=8,
    scaling=1.0,
    text_head=32,
)
