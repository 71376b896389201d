"""The refiner of Stable Diffusion XL: a UNet of four resolutions, autoencoder, OpenCLIP-bigG alone.

Source: Stability-AI generative-models, ``configs/inference/sd_xl_refiner.yaml``; configs of
``stable-diffusion-xl-refiner-1.0``.
"""

from __future__ import annotations

from memcard.architectures._unet import UNet
from memcard.dialects import _text, _unet, _vae
from memcard.dialects._configs import Numbers, stable_diffusion
from memcard.dialects._dialect import Component, Dialect

_LEVELS = 4  # the base model has three


def _accepts(unet: UNet) -> bool:
    return unet.linear and not unet.attention[0] and len(unet.attention) == _LEVELS


PLUGIN = Dialect(
    title="Stable Diffusion XL refiner",
    source="https://github.com/huggingface/diffusers (0.42, loaders/single_file_utils.py)",
    components=(
        Component(
            "unet",
            _unet.LDM,
            _unet.DIFFUSERS,
            _unet.linker(_accepts, labels="add_embedding"),
        ),
        _vae.component(),
        _text.open_clip("text_encoder_2", ("conditioner.embedders.0.model.", ""), projected=True),
    ),
    configs=stable_diffusion(
        Numbers(
            "StableDiffusionXLImg2ImgPipeline",
            sample=1024,
            scaling=0.13025,
            head_width=64,
            activations={"text_encoder_2": "gelu"},
        )
    ),
    tokenizers={"tokenizer_2": "clip_bang"},
)
