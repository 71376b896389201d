"""Flux.1: one transformer over words and picture, told by T5, by CLIP's pooled state and by a guidance.

The arithmetic and its order are those of diffusers' FluxPipeline, so that both give the same bits from
the same weights (``tests/unit/generation/test_flux.py``). Latents are packed: [1, tokens, channels], a
token for 2 x 2 latents.

Dev was distilled from guided guesses: the guidance is an input (``Settings.guidance``), and ``cfg`` above 1
runs it twice on top of that. Schnell takes no guidance.

Source: black-forest-labs/flux ``sampling.py``; diffusers ``pipeline_flux.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from torch import Generator, Tensor, nn

from memcard.generation.engine import Cond, Pipeline
from memcard.generation.engines import _flow, _models, _unet
from memcard.generation.latents import noise as unit_noise
from memcard.generation.settings import Settings
from memcard.generation.t5 import t5_states
from memcard.generation.words import Words

TOKENS: Final = 512  # of a prompt, for dev
TOKENS_SCHNELL: Final = 256
STEPS_SCHNELL: Final = 4
GUIDANCE: Final = 3.5  # what dev is told if nobody says


class Flux:
    """Pictures from Flux.1 dev and schnell."""

    title = "Flux.1"
    source = "https://github.com/black-forest-labs/flux"
    families: tuple[str, ...] = ("flux",)
    components: tuple[str, ...] = ("text_encoder", "text_encoder_2", "transformer", "vae")
    optional: tuple[str, ...] = ()
    variants: tuple[str, ...] = ("dev", "schnell")

    def empty(self, component: str, config: Mapping[str, Any]) -> nn.Module:
        """Build a component on the meta device; CLIP without a projection, whatever its file has."""
        if component == "text_encoder":
            return _models.clip(config, projected=False)
        kinds = {"text_encoder_2": _models.t5, "transformer": _models.flux, "vae": _models.vae}
        return kinds[component](config)

    def usual(self, pipeline: Pipeline) -> Mapping[str, Any]:
        """Return the settings of this very model that differ from its family's: those of schnell."""
        return {} if _guided(pipeline) else {"steps": STEPS_SCHNELL, "guidance": None}

    def encode(
        self, pipeline: Pipeline, words: Words, settings: Settings, *, negative: bool = False
    ) -> Cond:
        """Return the states of T5 and the pooled state of CLIP, which reads the first 77 tokens."""
        del settings, negative
        states, _ = t5_states(
            pipeline.modules["text_encoder_2"],
            pipeline.tokenizers["text_encoder_2"],
            words,
            TOKENS if _guided(pipeline) else TOKENS_SCHNELL,
            extras=pipeline.extras,
        )
        clip = pipeline.modules["text_encoder"]
        ids, _ = pipeline.tokenizers["text_encoder"].encode(
            words.text, int(clip.config.max_position_embeddings)
        )
        pooled = clip(torch.tensor([ids], device=pipeline.device)).pooler_output
        return {"states": states, "pooled": pooled}

    def noise(self, pipeline: Pipeline, settings: Settings, source: Generator) -> Tensor:
        """Return unit noise, [1, tokens, channels]; drawn as [channels / 4, height, width]."""
        rows, columns = _grid(pipeline, settings)
        channels = int(pipeline.configs["transformer"]["in_channels"]) // 4
        return packed(unit_noise((channels, 2 * rows, 2 * columns), source))

    def scheduler(self, pipeline: Pipeline, settings: Settings) -> Any:
        """Return the scheduler with its time steps set: even ones, shifted by the size for dev."""
        rows, columns = _grid(pipeline, settings)
        sigmas = np.linspace(1.0, 1 / settings.steps, settings.steps)
        return _flow.scheduler(pipeline, settings, tokens=rows * columns, sigmas=sigmas)

    def predict(
        self, pipeline: Pipeline, latents: Tensor, moment: Tensor, cond: Cond, settings: Settings
    ) -> Tensor:
        """Ask the transformer."""
        count, device = len(latents), latents.device
        guidance = None
        if _guided(pipeline):
            value = GUIDANCE if settings.guidance is None else settings.guidance
            guidance = torch.full([count], value, device=device, dtype=torch.float32)
        found: Tensor = pipeline.denoiser(
            hidden_states=latents,
            timestep=moment.expand(count).to(latents.dtype) / 1000,
            guidance=guidance,
            pooled_projections=cond["pooled"],
            encoder_hidden_states=cond["states"],
            txt_ids=torch.zeros(cond["states"].shape[1], 3, device=device),
            img_ids=_places(*_grid(pipeline, settings)).to(device),
            return_dict=False,
        )[0]
        return found

    def decode(self, pipeline: Pipeline, latents: Tensor, settings: Settings) -> Tensor:
        """Return one picture."""
        return _unet.decode(pipeline, unpacked(latents, *_grid(pipeline, settings)))

    def encode_pixels(
        self, pipeline: Pipeline, pixels: Tensor, settings: Settings, source: Generator
    ) -> Tensor:
        """Return the latents of a picture, [1, tokens, channels]."""
        del settings
        return packed(_unet.encode_pixels(pipeline, pixels, source))

    def mask(self, pipeline: Pipeline, mask: Tensor) -> Tensor:
        """Return a mask of pixels, [height, width] in 0..1, in the layout of the latents.

        Each latent takes the pixel at its corner, as diffusers' FluxInpaintPipeline does.
        """
        size = [side // pipeline.factor for side in mask.shape]
        small = torch.nn.functional.interpolate(mask[None, None].float(), size=size)
        channels = int(pipeline.configs["transformer"]["in_channels"]) // 4
        return packed(small.expand(1, channels, *size)).to(pipeline.device, pipeline.dtype)


def packed(latents: Tensor) -> Tensor:
    """Return [n, height / 2 * width / 2, 4 * channels] of [n, channels, height, width]."""
    count, channels, height, width = latents.shape
    found = latents.reshape(count, channels, height // 2, 2, width // 2, 2)
    found = found.permute(0, 2, 4, 1, 3, 5)
    return found.reshape(count, height // 2 * (width // 2), channels * 4)


def unpacked(latents: Tensor, rows: int, columns: int) -> Tensor:
    """Return [n, channels, 2 * rows, 2 * columns] of [n, rows * columns, 4 * channels]."""
    count, _, channels = latents.shape
    found = latents.reshape(count, rows, columns, channels // 4, 2, 2)
    return found.permute(0, 3, 1, 4, 2, 5).reshape(count, channels // 4, 2 * rows, 2 * columns)


def _guided(pipeline: Pipeline) -> bool:
    """Whether the guidance is an input: dev, not schnell."""
    return bool(pipeline.configs["transformer"]["guidance_embeds"])


def _grid(pipeline: Pipeline, settings: Settings) -> tuple[int, int]:
    """Return rows and columns of tokens."""
    side = pipeline.factor * 2
    return settings.height // side, settings.width // side


def _places(rows: int, columns: int) -> Tensor:
    """Return where each token lies: [tokens, 3], the first of the three is not used."""
    found = torch.zeros(rows, columns, 3)
    found[..., 1] += torch.arange(rows)[:, None]
    found[..., 2] += torch.arange(columns)[None]
    return found.reshape(rows * columns, 3)


PLUGIN = Flux()
