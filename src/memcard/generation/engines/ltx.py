"""LTX-Video 0.9: one transformer over all frames, told by T5; latents of 8 frames and 32 x 32 pixels.

The arithmetic and its order are those of diffusers' LTXPipeline, so that both give the same bits from
the same weights (``tests/unit/generation/test_ltx.py``).

Source: HaCohen et al. 2024, arXiv:2501.00103; diffusers ``pipeline_ltx.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import torch
from torch import Generator, Tensor, nn

from memcard.errors import UsageError
from memcard.generation._engine import quiet
from memcard.generation.engine import Cond, Pipeline
from memcard.generation.engines import _flow, _models
from memcard.generation.latents import generator
from memcard.generation.latents import noise as unit_noise
from memcard.generation.samplers import SAMPLERS
from memcard.generation.settings import Settings
from memcard.generation.t5 import t5_states
from memcard.generation.words import Words

TOKENS: Final = 128  # of a prompt, as in training
# What Lightricks' own configs give a decoder that removes the last of the noise (0.9.1 and later).
DECODE_TIMESTEP: Final = 0.05
DECODE_NOISE: Final = 0.025


class LTXVideo:
    """Clips from LTX-Video."""

    title = "LTX-Video"
    source = "arXiv:2501.00103"
    families: tuple[str, ...] = ("ltx_video",)
    components: tuple[str, ...] = ("text_encoder", "transformer", "vae")
    optional: tuple[str, ...] = ()
    variants: tuple[str, ...] = ("2B", "13B")
    latent_dtype = torch.float32  # whatever the models compute in, as in LTXPipeline

    def empty(self, component: str, config: Mapping[str, Any]) -> nn.Module:
        """Build a component on the meta device."""
        if component == "text_encoder":
            return _models.t5(config)
        with quiet(), torch.device("meta"):
            found = _kind(component)(**_models.plain(config))
        module: nn.Module = found.eval().requires_grad_(requires_grad=False)
        return module

    def encode(
        self, pipeline: Pipeline, words: Words, settings: Settings, *, negative: bool = False
    ) -> Cond:
        """Return the states of 128 tokens, and which of them are words.

        Raises:
            UsageError: a clip of this length or size cannot be made.
        """
        del negative
        _shape(pipeline, settings)
        states, mask = t5_states(
            pipeline.modules["text_encoder"],
            pipeline.tokenizers["text_encoder"],
            words,
            TOKENS,
            extras=pipeline.extras,
        )
        return {"states": states, "mask": mask.bool()}

    def noise(self, pipeline: Pipeline, settings: Settings, source: Generator) -> Tensor:
        """Return unit noise, [1, tokens, channels]; drawn frame by frame of the latents."""
        channels = int(pipeline.configs["transformer"]["in_channels"])
        return packed(unit_noise((channels, *_shape(pipeline, settings)), source))

    def scheduler(self, pipeline: Pipeline, settings: Settings) -> Any:
        """Return the scheduler; longer and larger clips get more of their steps at high noise."""
        config = dict(pipeline.configs["scheduler"])
        if settings.steps == 1:
            config["shift_terminal"] = None  # one level is noise alone: nothing to stretch, 0/0
        frames, rows, columns = _shape(pipeline, settings)
        mu = _flow.shift(config, frames * rows * columns)
        sigmas = np.linspace(1.0, 1 / settings.steps, settings.steps)
        with quiet():
            found = SAMPLERS[settings.sampler].scheduler(
                config, schedule=settings.schedule, prediction_type="flow"
            )
            found.set_timesteps(sigmas=sigmas, mu=mu, device=pipeline.device)
        return found

    def predict(
        self, pipeline: Pipeline, latents: Tensor, moment: Tensor, cond: Cond, settings: Settings
    ) -> Tensor:
        """Ask the transformer; the guess comes in the dtype of the latents."""
        frames, rows, columns = _shape(pipeline, settings)
        vae = pipeline.vae
        side = vae.spatial_compression_ratio
        found: Tensor = pipeline.denoiser(
            hidden_states=latents.to(pipeline.dtype),
            encoder_hidden_states=cond["states"],
            timestep=moment.expand(latents.shape[0]),
            encoder_attention_mask=cond["mask"],
            num_frames=frames,
            height=rows,
            width=columns,
            rope_interpolation_scale=(vae.temporal_compression_ratio / settings.fps, side, side),
            return_dict=False,
        )[0]
        return found.to(latents.dtype)

    def decode(
        self,
        pipeline: Pipeline,
        latents: Tensor,
        settings: Settings,
        source: Generator | None = None,
    ) -> Tensor:
        """Return the frames of a clip.

        Args:
            pipeline: the models.
            latents: [1, tokens, channels].
            settings: size and frames.
            source: of the noise a decoder from 0.9.1 on removes itself; None for one of its own, the
                same for every clip.
        """
        vae = pipeline.vae
        source = source or generator(0)
        mean, std = (
            v.view(1, -1, 1, 1, 1).to(latents) for v in (vae.latents_mean, vae.latents_std)
        )
        opened = unpacked(latents, _shape(pipeline, settings))
        opened = (opened * std / vae.config.scaling_factor + mean).to(pipeline.dtype)
        moment = None
        if vae.config.timestep_conditioning:
            drawn = torch.randn(opened.shape, generator=source).to(opened)
            moment = torch.tensor([DECODE_TIMESTEP], device=opened.device, dtype=opened.dtype)
            share = torch.tensor(DECODE_NOISE, device=opened.device, dtype=opened.dtype)
            opened = (1 - share) * opened + share * drawn
        with _seeded(source, opened.device):
            video = vae.decode(opened.to(vae.dtype), moment, return_dict=False)[0]
        shown: Tensor = (video[0] * 0.5 + 0.5).clamp(0, 1).permute(1, 2, 3, 0).float().cpu()
        return shown

    def encode_pixels(
        self, pipeline: Pipeline, pixels: Tensor, settings: Settings, source: Generator
    ) -> Tensor:
        """Return the latents of a clip that stands still, [1, tokens, channels]."""
        vae = pipeline.vae
        image = (pixels * 2 - 1).permute(2, 0, 1)[None, :, None]
        found = vae.encode(image.to(pipeline.device, pipeline.dtype)).latent_dist
        drawn = torch.randn(found.mean.shape, generator=source).to(found.mean)
        still = (found.mean + found.std * drawn).to(self.latent_dtype)
        mean, std = (v.view(1, -1, 1, 1, 1).to(still) for v in (vae.latents_mean, vae.latents_std))
        still = (still - mean) * vae.config.scaling_factor / std
        return packed(still.repeat(1, 1, _shape(pipeline, settings)[0], 1, 1))

    def mask(self, pipeline: Pipeline, mask: Tensor) -> Tensor:
        """Refuse a mask.

        Raises:
            UsageError: always; a part of a clip cannot be kept yet.
        """
        del pipeline, mask
        raise UsageError("LTX-Video takes no mask: a clip changes as a whole. Leave --mask out.")


def packed(latents: Tensor) -> Tensor:
    """Return [1, frames * rows * columns, channels] of [1, channels, frames, rows, columns]."""
    return latents.flatten(2).transpose(1, 2)


def unpacked(latents: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Undo ``packed``."""
    return latents.transpose(1, 2).reshape(latents.shape[0], -1, *shape)


def _kind(component: str) -> Any:
    if component == "vae":
        from diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTXVideo

        return AutoencoderKLLTXVideo
    from diffusers.models.transformers.transformer_ltx import LTXVideoTransformer3DModel

    return LTXVideoTransformer3DModel


def _shape(pipeline: Pipeline, settings: Settings) -> tuple[int, int, int]:
    """Return frames, rows and columns of the latents."""
    time, side = pipeline.vae.temporal_compression_ratio, pipeline.vae.spatial_compression_ratio
    faults = []
    if (settings.frames - 1) % time:
        below = (settings.frames - 1) // time * time + 1
        faults.append(
            f"{settings.frames} frames are not one more than a multiple of {time}: "
            f"use {below} or {below + time}"
        )
    for name, size in (("width", settings.width), ("height", settings.height)):
        if size % side:
            below = max(side, size // side * side)
            faults.append(
                f"{name} {size} is not a multiple of {side}: use {below} or {below + side}"
            )
    if faults:
        raise UsageError(f"LTX-Video cannot make this clip: {'; '.join(faults)}.")
    return (settings.frames - 1) // time + 1, settings.height // side, settings.width // side


@contextmanager
def _seeded(source: Generator, device: torch.device) -> Iterator[None]:
    """Let layers that draw noise themselves (0.9.1) draw the same for the same source.

    diffusers gives them no generator; the global one is put back afterwards.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(source.initial_seed())
        yield


PLUGIN = LTXVideo()
