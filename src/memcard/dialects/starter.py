"""The miniature Stable Diffusion that ships with memcard.

Source: ``docs/spec/starter.md``.
"""

from __future__ import annotations

from memcard.dialects import _text, _unet, _vae
from memcard.dialects._configs import Numbers, stable_diffusion
from memcard.dialects._dialect import Component, Dialect

PLUGIN = Dialect(
    title="memcard starter",
    source="docs/spec/starter.md",
    components=(
        Component(
            "unet",
            _unet.LDM,
            _unet.DIFFUSERS,
            _unet.linker(lambda unet: not unet.linear and unet.in_channels == 16),
        ),
        _vae.component(),
        _text.clip("text_encoder", ("cond_stage_model.transformer.", "")),
    ),
    configs=stable_diffusion(
        Numbers(
            "StableDiffusionPipeline",
            sample=64,
            scaling=1.0,
            prediction="v_prediction",
            heads=4,
            groups=16,
            vae_groups=8,
            text_head=32,
            schedule={"timestep_spacing": "trailing"},
        )
    ),
    tokenizers={"tokenizer": "starter"},
)
