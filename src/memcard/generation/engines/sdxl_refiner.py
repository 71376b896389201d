"""The refiner of Stable Diffusion XL: it finishes what a base began, or works a picture over.

It reads OpenCLIP-bigG alone and is told how good looking the picture shall be instead of its size's target.

Source: Podell et al. 2023, arXiv:2307.01952, section 2.5; diffusers ``pipeline_stable_diffusion_xl_img2img.py``.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import torch

from memcard.errors import UsageError
from memcard.generation.clip_words import clip_states
from memcard.generation.engine import Cond, Pipeline
from memcard.generation.engines._stable_diffusion import StableDiffusion
from memcard.generation.settings import Settings
from memcard.generation.words import Words

_SCORE: Final = 6.0  # of aesthetics, 0 to 10; both are diffusers' own
_NEGATIVE: Final = 2.5


class Refiner(StableDiffusion):
    """One UNet, told by OpenCLIP-bigG, by a size and by a score."""

    title = "Stable Diffusion XL refiner"
    source = "arXiv:2307.01952"
    families: tuple[str, ...] = ("sdxl_refiner",)
    components: tuple[str, ...] = ("text_encoder_2", "unet", "vae")
    variants: tuple[str, ...] = ()

    def check(self, pipeline: Pipeline, settings: Settings, given: Collection[str]) -> None:
        """Refuse a run out of nothing but noise.

        Raises:
            UsageError: says what to name.
        """
        del pipeline, settings
        if "image" not in given:
            raise UsageError(
                "this checkpoint is the refiner of Stable Diffusion XL: it finishes a picture. Name one with "
                "--image, or begin with a base: -c BASE --refiner REFINER."
            )
        if "control" in given:
            raise UsageError("the refiner follows no drawing; leave --control-image out.")

    def encode(
        self, pipeline: Pipeline, words: Words, settings: Settings, *, negative: bool = False
    ) -> Cond:
        """Return the states of the encoder, its pooled state, the size and the score."""
        name = self.components[0]
        states, pooled = clip_states(
            *(pipeline.modules[name], pipeline.tokenizers[name], words),
            skip=settings.clip_skip,
            penultimate=True,
            extras=pipeline.extras,
            component=name,
        )
        assert pooled is not None, "the text encoder has a projection"  # noqa: S101
        score = _NEGATIVE if negative else _SCORE
        sizes = [settings.height, settings.width, 0, 0, score]
        told = torch.tensor([sizes], dtype=states.dtype, device=states.device)
        return {"states": states, "pooled": pooled, "sizes": told}


PLUGIN = Refiner()
