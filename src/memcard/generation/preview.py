"""A picture as far as it is: latents as colours, without running the decoder on them.

Decoders of latents are nearly linear on average colour. So the colour of one latent channel is measured
once per model, by decoding a small even patch of it, and a preview is one matrix product.
"""

from __future__ import annotations

from typing import Final
from weakref import WeakKeyDictionary

import torch
from PIL import Image
from torch import Tensor

from memcard.generation.engine import Pipeline

_PATCH: Final = 4  # latents, along each side
_PUSH: Final = 1.0  # how far from zero a channel is measured, in the denoiser's units

_MAPS: WeakKeyDictionary[torch.nn.Module, tuple[Tensor, Tensor]] = WeakKeyDictionary()


def colours(pipeline: Pipeline) -> tuple[Tensor, Tensor]:
    """Return weights [channels, 3] and offset [3] that turn latents into colours in 0..1."""
    vae = pipeline.vae
    if vae not in _MAPS:
        config = pipeline.configs["vae"]
        channels = int(config.get("latent_channels") or config["z_dim"])
        patches = torch.zeros(1 + channels, channels, _PATCH, _PATCH)
        for i in range(channels):
            patches[1 + i, i] = _PUSH
        own = getattr(pipeline.engine, "decode_patches", None)
        with torch.inference_mode():
            shown = _shown(pipeline, patches) if own is None else own(pipeline, patches)
        mean = (shown * 0.5 + 0.5).mean(dim=(2, 3))
        _MAPS[vae] = (mean[1:] - mean[0]) / _PUSH, mean[0]
    return _MAPS[vae]


def _shown(pipeline: Pipeline, patches: Tensor) -> Tensor:
    """Return what an autoencoder of pictures makes of patches, in -1..1, [n, 3, height, width]."""
    config = pipeline.configs["vae"]
    scaled = patches / config["scaling_factor"] + (config.get("shift_factor") or 0)
    told = scaled.to(pipeline.device, pipeline.dtype)
    found: Tensor = pipeline.vae.decode(told, return_dict=False)[0].float().cpu()
    return found


def preview(pipeline: Pipeline, latents: Tensor, *, side: int = 256) -> Image.Image:
    """Return a small picture of latents, [1, channels, height, width] or with frames in between.

    Args:
        pipeline: whose latents they are.
        latents: as far as they are denoised.
        side: of the preview's longer side, in pixels.
    """
    own = getattr(pipeline.engine, "picture_latents", None)
    flat = latents if own is None else own(pipeline, latents)
    if flat.ndim == 5:  # a clip: its middle frame
        flat = flat[:, :, flat.shape[2] // 2]
    weights, offset = colours(pipeline)
    values = torch.einsum("chw,cr->hwr", flat[0].float().cpu(), weights) + offset
    pixels = (values.clamp(0, 1) * 255).round().byte().numpy()
    small = Image.fromarray(pixels)
    scale = max(1.0, side / max(small.size))
    size = round(small.width * scale), round(small.height * scale)
    return small.resize(size, Image.Resampling.BICUBIC)
