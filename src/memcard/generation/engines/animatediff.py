"""AnimateDiff: the frames of a clip are pictures of one UNet, tied by layers over time between its own.

Any checkpoint of Stable Diffusion 1 or XL with any motion module for it; ``generation/motion.py`` puts the
two together. The arithmetic and its order are those of diffusers' AnimateDiffPipeline and
AnimateDiffSDXLPipeline (``tests/unit/generation/test_animatediff.py``, ``test_animatediff_xl.py``).

Source: Guo et al. 2023, arXiv:2307.04725; diffusers ``pipeline_animatediff.py``,
``pipeline_animatediff_sdxl.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Generator, Tensor, nn

from memcard.errors import UsageError
from memcard.generation._engine import quiet
from memcard.generation.engine import Cond, Engine, Pipeline
from memcard.generation.engines import _models, _unet
from memcard.generation.engines._stable_diffusion import StableDiffusion
from memcard.generation.latents import noise as unit_noise
from memcard.generation.settings import Settings
from memcard.generation.words import Words

MODULE: Final = "motion_adapter"
_CLIP: Final = 4  # dimensions of pixels that are a clip
FRAMES: Final = 16  # what the modules were trained with, and the usual length of a clip
FPS: Final = 8


class AnimateDiff(StableDiffusion):
    """Clips from Stable Diffusion and a motion module."""

    title = "AnimateDiff"
    source = "arXiv:2307.04725"
    families: tuple[
        str, ...
    ] = ()  # none by itself: ``generation.motion`` turns a pipeline of SD 1 into it
    components: tuple[str, ...] = ("text_encoder", "unet", "vae", MODULE)
    reads_clips = True  # as ``encode_pixels`` of all frames

    def __init__(self, still: Engine | None = None) -> None:
        """Take the engine that paints pictures with the same checkpoint; None: Stable Diffusion 1."""
        self.still = still or StableDiffusion()
        self.components = (*self.still.components, MODULE)

    def empty(self, component: str, config: Mapping[str, Any]) -> nn.Module:
        """Build a component on the meta device."""
        if component != MODULE:
            return self.still.empty(component, config)
        from diffusers.models.unets.unet_motion_model import MotionAdapter

        with quiet(), torch.device("meta"):
            found: Any = MotionAdapter(**_models.plain(config))
        module: nn.Module = found.eval().requires_grad_(requires_grad=False)
        return module

    def usual(self, pipeline: Pipeline) -> Mapping[str, Any]:
        """Return the settings of clips, which those of pictures do not have."""
        del pipeline
        return {"frames": FRAMES, "fps": FPS}

    def encode(
        self, pipeline: Pipeline, words: Words, settings: Settings, *, negative: bool = False
    ) -> Cond:
        """Return the states of the prompt, once for all frames.

        Raises:
            UsageError: the motion module knows fewer frames.
        """
        longest = int(pipeline.configs[MODULE]["motion_max_seq_length"])
        if settings.frames > longest:
            raise UsageError(
                f"{settings.frames} frames: this motion module knows {longest} at most, and was "
                f"trained with {FRAMES}. Use --frames {FRAMES}, or another motion module."
            )
        return self.still.encode(pipeline, words, settings, negative=negative)

    def noise(self, pipeline: Pipeline, settings: Settings, source: Generator) -> Tensor:
        """Return unit noise, [1, channels, frames, height, width]."""
        size = settings.height // pipeline.factor, settings.width // pipeline.factor
        channels = int(pipeline.configs["vae"]["latent_channels"])
        return unit_noise((channels, settings.frames, *size), source)

    def predict(
        self, pipeline: Pipeline, latents: Tensor, moment: Tensor, cond: Cond, settings: Settings
    ) -> Tensor:
        """Ask the UNet about all frames at once."""
        del settings
        states = cond["states"].repeat_interleave(latents.shape[2], dim=0)
        return _unet.ask(pipeline, latents, moment, {**cond, "states": states})

    def decode(self, pipeline: Pipeline, latents: Tensor, settings: Settings) -> Tensor:
        """Return the frames; decoded one by one, as all together may not fit."""
        del settings
        config = pipeline.configs["vae"]
        scaled = 1 / config["scaling_factor"] * latents[0].permute(1, 0, 2, 3)
        frames = [pipeline.vae.decode(one[None], return_dict=False)[0] for one in scaled]
        return _unet.shown(torch.cat(frames).float())

    def encode_pixels(
        self, pipeline: Pipeline, pixels: Tensor, settings: Settings, source: Generator
    ) -> Tensor:
        """Return the latents of a clip, [1, channels, frames, height, width].

        ``pixels`` are a clip, [frames, height, width, 3], or a picture that then stands still.
        """
        if pixels.ndim == _CLIP:
            read = [_unet.encode_pixels(pipeline, one, source) for one in pixels]
            return torch.stack(read, dim=2)
        still = _unet.encode_pixels(pipeline, pixels, source)
        return still[:, :, None].repeat(1, 1, settings.frames, 1, 1)


PLUGIN = AnimateDiff()
