"""From a prompt to pixels: encode, denoise under guidance, decode.

The arithmetic and its order are those of diffusers' StableDiffusionPipeline, so that both give the
same bits from the same weights (``tests/unit/generation/test_same_as_diffusers.py``).

Source: Ho and Salimans 2022, arXiv:2207.12598 (guidance); diffusers
``pipeline_stable_diffusion.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from memcard.core.progress import Listener, Notice, silent
from memcard.generation._engine import quiet
from memcard.generation.latents import generator, noise
from memcard.generation.pipeline import Pipeline
from memcard.generation.samplers import SAMPLERS
from memcard.generation.settings import Settings


def encode(pipeline: Pipeline, prompt: str, negative: str, progress: Listener = silent) -> Tensor:
    """Return the text states, shape [2, tokens, width]: first the negative prompt's.

    Says which words did not fit into the text encoder.
    """
    rows = []
    for text in (negative, prompt):
        ids, cut = pipeline.tokenizer.encode(text, pipeline.length)
        if cut:
            progress(Notice(f"The prompt is too long; not read: {cut!r}."))
        tokens = torch.tensor([ids], device=pipeline.device)
        with torch.inference_mode():
            rows.append(pipeline.text_encoder(tokens)[0])
    return torch.cat(rows)


def denoise(
    pipeline: Pipeline,
    states: Tensor,
    settings: Settings,
    seed: int,
    step_done: Callable[[int, int], None] = lambda done, total: None,
) -> Tensor:
    """Return the clean latents of one picture, shape [1, channels, height, width].

    Args:
        pipeline: the models.
        states: from ``encode``.
        settings: sampler, schedule, steps, guidance, size.
        seed: of all noise in this picture.
        step_done: told after each run of the UNet how many of how many are done.
    """
    scheduler = _scheduler(pipeline, settings)
    source = generator(seed)
    size = (settings.height // pipeline.factor, settings.width // pipeline.factor)
    start = noise((pipeline.unet.config.in_channels, *size), source)
    latents: Tensor = start.to(pipeline.device, pipeline.dtype) * scheduler.init_noise_sigma
    guided = settings.cfg > 1
    if not guided:
        states = states[1:]
    extra = {"generator": source} if SAMPLERS[settings.sampler].random else {}
    with torch.inference_mode():
        for done, moment in enumerate(scheduler.timesteps, 1):
            pair = torch.cat([latents] * 2) if guided else latents
            pair = scheduler.scale_model_input(pair, moment)
            guess = pipeline.unet(pair, moment, encoder_hidden_states=states, return_dict=False)[0]
            if guided:
                without, with_prompt = guess.chunk(2)
                guess = without + settings.cfg * (with_prompt - without)
            latents = scheduler.step(guess, moment, latents, return_dict=False, **extra)[0]
            step_done(done, len(scheduler.timesteps))
    return latents


def _scheduler(pipeline: Pipeline, settings: Settings) -> Any:
    family = pipeline.family.defaults.extra["scheduler"]
    with quiet():
        scheduler = SAMPLERS[settings.sampler].scheduler(
            family, schedule=settings.schedule, prediction_type=settings.prediction_type
        )
        scheduler.set_timesteps(settings.steps, device=pipeline.device)
    return scheduler


def decode(pipeline: Pipeline, latents: Tensor) -> Tensor:
    """Return pixels in 0..1, float32, shape [height, width, 3], on the CPU."""
    with torch.inference_mode():
        scaled = latents / pipeline.vae.config.scaling_factor
        pixels = pipeline.vae.decode(scaled, return_dict=False)[0]
        shown: Tensor = (pixels * 0.5 + 0.5).clamp(0, 1)[0].permute(1, 2, 0).float().cpu()
        return shown
