"""The networks of diffusers and transformers that engines are made of, built without memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from memcard.generation._engine import quiet


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config without diffusers' notes to itself, such as ``_class_name``."""
    return {key: value for key, value in config.items() if not key.startswith("_")}


def unet(config: Mapping[str, Any]) -> nn.Module:
    """Return a UNet2DConditionModel on the meta device."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    return _made(UNet2DConditionModel, config)


def controlnet(config: Mapping[str, Any]) -> nn.Module:
    """Return a ControlNetModel on the meta device."""
    from diffusers.models.controlnets.controlnet import ControlNetModel

    return _made(ControlNetModel, config)


def vae(config: Mapping[str, Any]) -> nn.Module:
    """Return an AutoencoderKL on the meta device."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    return _made(AutoencoderKL, config)


def clip(config: Mapping[str, Any], *, projected: bool | None = None) -> nn.Module:
    """Return a CLIP text encoder on the meta device.

    Args:
        config: of transformers' CLIPTextModel.
        projected: with a projection of the pooled state or without; None: as the config says. One that
            the config lacks passes the state on as it is.
    """
    from transformers.models.clip.configuration_clip import CLIPTextConfig
    from transformers.models.clip.modeling_clip import CLIPTextModel, CLIPTextModelWithProjection

    has_one = "CLIPTextModelWithProjection" in (config.get("architectures") or ())
    wanted = has_one if projected is None else projected
    kind = CLIPTextModelWithProjection if wanted else CLIPTextModel
    with quiet(), torch.device("meta"):
        module: Any = kind(CLIPTextConfig(**plain(config)))
    if wanted and not has_one:
        module.text_projection = nn.Identity()
    return _still(module)


def flux(config: Mapping[str, Any]) -> nn.Module:
    """Return a FluxTransformer2DModel on the meta device."""
    from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel

    return _made(FluxTransformer2DModel, config)


def sd3(config: Mapping[str, Any]) -> nn.Module:
    """Return an SD3Transformer2DModel on the meta device."""
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel

    return _made(SD3Transformer2DModel, config)


def t5(config: Mapping[str, Any]) -> nn.Module:
    """Return the encoder of a T5 on the meta device."""
    from transformers.models.t5.configuration_t5 import T5Config
    from transformers.models.t5.modeling_t5 import T5EncoderModel

    with quiet(), torch.device("meta"):
        module: nn.Module = T5EncoderModel(T5Config(**plain(config)))
    return _still(module)


def _made(kind: Any, config: Mapping[str, Any]) -> nn.Module:
    with quiet(), torch.device("meta"):
        module: nn.Module = kind(**plain(config))
    return _still(module)


def _still(module: nn.Module) -> nn.Module:
    return module.eval().requires_grad_(requires_grad=False)
