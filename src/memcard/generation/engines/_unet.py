"""What Stable Diffusion and its larger sister share: noise, schedules, and the VAE.

Source: diffusers ``pipeline_stable_diffusion.py``, ``pipeline_stable_diffusion_xl.py``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from memcard.generation import edm
from memcard.generation._engine import quiet
from memcard.generation.engine import Cond, Pipeline
from memcard.generation.engines._control import controlled
from memcard.generation.latents import noise as unit_noise
from memcard.generation.samplers import SAMPLERS
from memcard.generation.settings import Settings


class OnePicture:
    """What engines share whose latents lie as the pixels do, [1, channels, height, width]."""

    def noise(self, pipeline: Pipeline, settings: Settings, source: Generator) -> Tensor:
        """Return unit noise, [1, channels, height, width]."""
        size = settings.height // pipeline.factor, settings.width // pipeline.factor
        return unit_noise((int(pipeline.configs["vae"]["latent_channels"]), *size), source)

    def decode(self, pipeline: Pipeline, latents: Tensor, settings: Settings) -> Tensor:
        """Return one picture."""
        del settings
        return decode(pipeline, latents)

    def encode_pixels(
        self, pipeline: Pipeline, pixels: Tensor, settings: Settings, source: Generator
    ) -> Tensor:
        """Return the latents of a picture, [1, channels, height, width]."""
        del settings
        return encode_pixels(pipeline, pixels, source)


def scheduler(pipeline: Pipeline, settings: Settings) -> Any:
    """Return the scheduler of the settings, its time steps set."""
    family = {k: v for k, v in pipeline.configs["scheduler"].items() if k != "prediction_type"}
    with quiet():
        found = SAMPLERS[settings.sampler].scheduler(
            family,
            schedule=settings.schedule,
            prediction_type=settings.prediction_type,
        )
        found.set_timesteps(settings.steps, device=pipeline.device)
    return found


def beside(latents: Tensor, cond: Cond) -> Tensor:
    """Return latents with what an inpainting model sees beside them."""
    return torch.cat([latents, cond["beside"]], dim=1) if "beside" in cond else latents


def ask(pipeline: Pipeline, latents: Tensor, moment: Tensor, cond: Cond) -> Tensor:
    """Ask the UNet, and the ControlNets beside it; SDXL is told a pooled state and sizes too."""
    added = None
    if "sizes" in cond:
        added = {"text_embeds": cond["pooled"], "time_ids": cond["sizes"]}
    found: Tensor = pipeline.denoiser(
        beside(latents, cond),
        moment,
        encoder_hidden_states=cond["states"],
        added_cond_kwargs=added,
        return_dict=False,
        **controlled(pipeline, latents, moment, cond, added),
    )[0]
    return found


def decode(pipeline: Pipeline, latents: Tensor) -> Tensor:
    """Return pixels in 0..1, float32, [1, height, width, 3], on the CPU."""
    config = {**pipeline.configs["vae"], **pipeline.configs["scheduler"]}
    if config.get(edm.MEAN):
        mean, std = edm.spread(config, latents)
        scaled = latents * std / config[edm.SCALE] + mean
    else:
        scaled = latents / config["scaling_factor"] + (config.get("shift_factor") or 0)
    return shown(pipeline.vae.decode(scaled, return_dict=False)[0])


def shown(pixels: Tensor) -> Tensor:
    """Return [frames, height, width, 3] in 0..1 of [frames, 3, height, width] in -1..1."""
    return (pixels * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).float().cpu()


def encode_pixels(pipeline: Pipeline, pixels: Tensor, source: Generator) -> Tensor:
    """Return the latents of a picture, [1, channels, height, width]; drawn, as the VAE is a distribution."""
    config = {**pipeline.configs["vae"], **pipeline.configs["scheduler"]}
    image = (pixels * 2 - 1).permute(2, 0, 1)[None].to(pipeline.device, pipeline.dtype)
    found = pipeline.vae.encode(image).latent_dist
    drawn = torch.randn(found.mean.shape, generator=source).to(pipeline.device, pipeline.dtype)
    latents = found.mean + found.std * drawn
    if pipeline.architecture == "starter":  # its encoder never learnt how sure it is
        latents = found.mean
    if config.get(edm.MEAN):
        mean, std = edm.spread(config, latents)
        own: Tensor = (latents - mean) * float(config[edm.SCALE]) / std
        return own
    scaled: Tensor = (latents - (config.get("shift_factor") or 0)) * config["scaling_factor"]
    return scaled
