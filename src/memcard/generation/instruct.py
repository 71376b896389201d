"""Instructions: a model that sees a picture beside the noise and changes it as the prompt says.

Each step takes three looks: with words and picture, with the picture alone, with neither. One scale says how
far the words are followed, another how far the picture.

Source: Brooks et al. 2022, arXiv:2211.09800, equation 3; diffusers
``pipeline_stable_diffusion_instruct_pix2pix.py`` and ``..._xl_instruct_pix2pix.py``.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

import torch
from torch import Tensor

from memcard.errors import UsageError
from memcard.generation.engine import Cond, Pipeline
from memcard.generation.guidance import Mixture, bounded
from memcard.generation.sampler import EDM
from memcard.generation.settings import Settings

USUAL: Final = {"image_cfg": 1.5, "cfg": 7.5}  # of the paper's demo
_BESIDE: Final = "beside"


def instructed(pipeline: Pipeline) -> bool:
    """Whether the denoiser sees a picture, and no mask, beside the noise."""
    channels = pipeline.configs.get("unet", {}).get("in_channels", 0)
    latents = int(pipeline.configs["vae"].get("latent_channels", 0))
    return bool(latents) and channels == 2 * latents


def check(settings: Settings, given: Collection[str]) -> None:
    """Refuse what such a model cannot use, and a run without a picture.

    Raises:
        UsageError: says what to name.
    """
    if "image" not in given:
        raise UsageError(
            "this checkpoint follows instructions (InstructPix2Pix): it changes a picture as the prompt says. "
            "Name the picture with --image."
        )
    for what, option in (("mask", "--mask"), ("hires", "--hires"), ("control", "--control-image")):
        if what in given:
            raise UsageError(
                f"InstructPix2Pix has no use for {option}: it changes the whole picture by the prompt. Leave "
                "it out."
            )
    if settings.image_cfg is not None and settings.image_cfg < 1:
        raise UsageError(
            f"image cfg {settings.image_cfg:g} is below 1, which would push away from the picture. 1 to 2 is "
            "usual."
        )


def seen(pipeline: Pipeline, pixels: Tensor) -> Cond:
    """Return what the denoiser sees of a picture in 0..1, [height, width, 3]; nothing is drawn for it."""
    image = (pixels * 2 - 1).permute(2, 0, 1)[None].to(pipeline.device, pipeline.dtype)
    with torch.inference_mode():
        latents: Tensor = pipeline.vae.encode(image).latent_dist.mode()
    if pipeline.prediction in EDM:  # CosXL Edit was trained with scaled ones, the others were not
        latents = latents * pipeline.configs["vae"]["scaling_factor"]
    return {_BESIDE: latents}


def looks(wanted: Cond, unwanted: Cond) -> tuple[Cond, Cond, Cond]:
    """Return what the denoiser is told in its three looks: words and picture, picture alone, neither."""
    return wanted, unwanted, {**unwanted, _BESIDE: torch.zeros_like(unwanted[_BESIDE])}


def combine(
    guesses: Sequence[Tensor], settings: Settings, shown: Tensor, at: Mixture | None
) -> Tensor:
    """Return the guided guess of the three, in the order of ``looks``."""
    words, picture, neither = guesses
    assert settings.image_cfg is not None, "the caller asked for three looks"  # noqa: S101
    guess = neither + settings.cfg * (words - picture) + settings.image_cfg * (picture - neither)
    return bounded(guess, words, settings, shown, at)
