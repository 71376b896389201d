"""Stable Diffusion 2.x: UNet, autoencoder, OpenCLIP-H.

The last of OpenCLIP-H's 24 layers and its projection are never used: the family was trained on the
second-last layer. diffusers keeps 23 layers, and so does this dictionary.

Source: diffusers ``single_file_utils.py``; configs of ``stable-diffusion-2-1``.
"""

from __future__ import annotations

from memcard.dialects import _text, _unet, _vae
from memcard.dialects._configs import Numbers, stable_diffusion
from memcard.dialects._dialect import Component, Dialect

PLUGIN = Dialect(
    title="Stable Diffusion 2.x",
    source="https://github.com/huggingface/diffusers (0.42, loaders/single_file_utils.py)",
    components=(
        Component(
            "unet",
            _unet.LDM,
            _unet.DIFFUSERS,
            _unet.linker(lambda unet: unet.linear and unet.attention[0]),
        ),
        _vae.component(),
        _text.open_clip(
            "text_encoder",
            ("cond_stage_model.model.", ""),
            projected=False,
            idle=r"transformer\.resblocks\.23\..*|text_projection",
        ),
    ),
    configs=stable_diffusion(
        Numbers(
            "StableDiffusionPipeline",
            sample=768,
            scaling=0.18215,
            prediction="v_prediction",
            head_width=64,
            activations={"text_encoder": "gelu"},
        )
    ),
    tokenizers={"tokenizer": "clip_bang"},
)
