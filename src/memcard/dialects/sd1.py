"""Stable Diffusion 1.x: UNet, autoencoder, CLIP-L.

Source: diffusers ``single_file_utils.py``; configs of ``stable-diffusion-v1-5``.
"""

from __future__ import annotations

from memcard.architectures._unet import UNet
from memcard.dialects import _text, _unet, _vae
from memcard.dialects._configs import Numbers, stable_diffusion
from memcard.dialects._dialect import Component, Dialect

# Latents; latents beside a picture (instruct-pix2pix); latents, mask and picture (inpainting).
_CHANNELS = (4, 8, 9)


def _accepts(unet: UNet) -> bool:
    return not unet.linear and not unet.labels and unet.in_channels in _CHANNELS


PLUGIN = Dialect(
    title="Stable Diffusion 1.x",
    source="https://github.com/huggingface/diffusers (0.42, loaders/single_file_utils.py)",
    components=(
        Component(
            "unet",
            _unet.LDM,
            _unet.DIFFUSERS,
            _unet.linker(_accepts),
        ),
        _vae.component(),
        _text.clip("text_encoder", ("cond_stage_model.transformer.", "")),
    ),
    configs=stable_diffusion(
        Numbers("StableDiffusionPipeline", sample=512, scaling=0.18215, heads=8)
    ),
    tokenizers={"tokenizer": "clip"},
)
