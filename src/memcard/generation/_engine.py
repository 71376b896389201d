"""The parts of diffusers and transformers that generation stands on, and nothing else of them.

Importing ``StableDiffusionPipeline`` costs what these parts cost plus processors, LoRA loaders and
safety checkers nobody calls here; a picture needs three models and one scheduler.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def quiet() -> Iterator[None]:
    """Keep advice meant for users of diffusers and transformers from users of memcard.

    Errors still come through.
    """
    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers", "torch")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # torch's tensors do not know numpy 2's copy keyword; diffusers' schedulers meet it.
            warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def empty(component: str, config: Mapping[str, Any]) -> nn.Module:
    """Build ``unet``, ``vae`` or ``text_encoder`` without memory for its weights."""
    with quiet(), torch.device("meta"):
        module: nn.Module = _build(component, config)
    return module.eval().requires_grad_(requires_grad=False)


def _build(component: str, config: Mapping[str, Any]) -> Any:
    module: Any  # diffusers and transformers are untyped here
    if component == "unet":
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

        module = UNet2DConditionModel(**config)
    elif component == "vae":
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

        module = AutoencoderKL(**config)
        # Text to image only decodes; what is not there needs no memory and no weights.
        module.encoder = module.quant_conv = None
    else:
        from transformers.models.clip.configuration_clip import CLIPTextConfig
        from transformers.models.clip.modeling_clip import CLIPTextModel

        module = CLIPTextModel(CLIPTextConfig(**config))
        length = config["max_position_embeddings"]
        # A counter, not a weight: no file needs to have it, and on the meta device it has no values.
        module.embeddings.position_ids = torch.arange(length, device="cpu")[None]
    return module
