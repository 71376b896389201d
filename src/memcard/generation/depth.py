"""Depth: Stable Diffusion 2 that sees a map of depths beside the noise, so that shapes stay.

The map is the user's; near is bright, as in the maps that MiDaS makes.

Source: Stability-AI stablediffusion, ``v2-midas-inference.yaml``; diffusers ``pipeline_stable_diffusion_depth2img.py``.
"""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor
from torch.nn.functional import interpolate

from memcard.errors import UsageError
from memcard.generation.engine import Cond, Pipeline


def mapped(pipeline: Pipeline) -> bool:
    """Whether the denoiser sees one channel beside the noise."""
    channels = pipeline.configs.get("unet", {}).get("in_channels", 0)
    latents = int(pipeline.configs["vae"].get("latent_channels", 0))
    return bool(latents) and channels == latents + 1


def check(given: Collection[str]) -> None:
    """Refuse a run without a picture and its map.

    Raises:
        UsageError: says what to name.
    """
    if not {"image", "control"} <= set(given):
        raise UsageError(
            "this checkpoint is Stable Diffusion 2 depth: it paints over a picture and keeps its shapes. Name the "
            "picture with --image and its map of depths, near is bright, with --control-image."
        )


def seen(pipeline: Pipeline, depths: Tensor, latents: Tensor) -> Cond:
    """Return what the denoiser sees of a map of depths.

    Args:
        pipeline: the models.
        depths: 0..1, [height, width, 3], grey: the first channel counts.
        latents: of the picture; the map gets their size.

    Raises:
        UsageError: the map is of one grey, which says nothing.
    """
    grey = depths[None, None, ..., 0].to(pipeline.device, pipeline.dtype)
    small = interpolate(grey, size=latents.shape[-2:], mode="bicubic", align_corners=False)
    low, high = small.amin(dim=[1, 2, 3], keepdim=True), small.amax(dim=[1, 2, 3], keepdim=True)
    if bool(low == high):
        raise UsageError(
            "the map of depths is of one grey, so it says nothing about shapes. Give --control-image a map "
            "whose near parts are brighter."
        )
    return {"beside": (2.0 * (small - low) / (high - low) - 1.0).to(pipeline.dtype)}
