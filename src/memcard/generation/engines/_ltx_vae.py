"""The autoencoder of LTX-Video: frames to latents as the transformer has them, and back.

From 0.9.1 on its decoder removes the last of the noise itself, so some is added first.

Source: diffusers ``pipeline_ltx.py``, ``pipeline_ltx_image2video.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch
from torch import Generator, Tensor

from memcard.generation.engine import Pipeline
from memcard.generation.latents import generator

# What Lightricks' own configs give a decoder that removes the last of the noise.
DECODE_TIMESTEP: Final = 0.05
DECODE_NOISE: Final = 0.025


def read(pipeline: Pipeline, pixels: Tensor, source: Generator) -> Tensor:
    """Return the latents of frames, [1, channels, frames, rows, columns], float32.

    Args:
        pipeline: the models.
        pixels: 0..1, [frames, height, width, 3].
        source: the autoencoder draws from it.
    """
    vae = pipeline.vae
    video = (pixels * 2 - 1).permute(3, 0, 1, 2)[None]
    found = vae.encode(video.to(pipeline.device, vae.dtype)).latent_dist
    drawn = torch.randn(found.mean.shape, generator=source).to(found.mean)
    read = (found.mean + found.std * drawn).to(torch.float32)
    mean, std = (v.view(1, -1, 1, 1, 1).to(read) for v in (vae.latents_mean, vae.latents_std))
    latents: Tensor = (read - mean) * vae.config.scaling_factor / std
    return latents


def shown(pipeline: Pipeline, latents: Tensor, source: Generator | None = None) -> Tensor:
    """Return what the decoder makes of latents, in -1..1, [n, 3, frames, height, width].

    Args:
        pipeline: the models.
        latents: as the transformer has them, but [n, channels, frames, rows, columns].
        source: of noise for a decoder that removes it; None: there is none.
    """
    vae = pipeline.vae
    mean, std = (v.view(1, -1, 1, 1, 1).to(latents) for v in (vae.latents_mean, vae.latents_std))
    opened = (latents * std / vae.config.scaling_factor + mean).to(pipeline.device, pipeline.dtype)
    moment = None
    if vae.config.timestep_conditioning:
        moment = torch.tensor([DECODE_TIMESTEP], device=opened.device, dtype=opened.dtype)
        moment = moment.expand(len(opened))
    if moment is not None and source is not None:
        drawn = torch.randn(opened.shape, generator=source).to(opened)
        share = torch.tensor(DECODE_NOISE, device=opened.device, dtype=opened.dtype)
        opened = (1 - share) * opened + share * drawn
    with _seeded(source or generator(0), opened.device):
        video: Tensor = vae.decode(opened.to(vae.dtype), moment, return_dict=False)[0]
    return video


@contextmanager
def _seeded(source: Generator, device: torch.device) -> Iterator[None]:
    """Let layers that draw noise themselves (0.9.1) draw the same for the same source.

    diffusers gives them no generator; the global one is put back afterwards.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(source.initial_seed())
        yield
