"""What models trained by flow matching share: their time steps, and how many frames a clip can have.

Source: Esser et al. 2024, arXiv:2403.03206, section 5.3.2 (more tokens, more noise); diffusers
``pipeline_flux.py``, ``calculate_shift``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from memcard.generation._engine import quiet
from memcard.generation.engine import Pipeline
from memcard.generation.samplers import SAMPLERS
from memcard.generation.settings import Settings


def scheduler(
    pipeline: Pipeline, settings: Settings, *, tokens: int, sigmas: Any = None, most: float = 1.15
) -> Any:
    """Return the scheduler of the settings, its time steps set.

    Args:
        pipeline: the models.
        settings: sampler, schedule, steps.
        tokens: of the picture.
        sigmas: levels before the shift, descending; None: those of diffusers' class.
        most: the largest shift, where the config does not say it.
    """
    family = pipeline.configs["scheduler"]
    more = {"sigmas": sigmas} if sigmas is not None else {}
    if family.get("use_dynamic_shifting"):
        more["mu"] = shift(family, tokens, most)
    with quiet():
        found = SAMPLERS[settings.sampler].scheduler(
            family, schedule=settings.schedule, prediction_type=settings.prediction_type
        )
        found.set_timesteps(settings.steps, device=pipeline.device, **more)
    return found


def shift(family: Mapping[str, Any], tokens: int, most: float = 1.15) -> float:
    """Return mu, the logarithm of the shift for a picture of so many tokens: a line through two points."""
    few, many = family.get("base_image_seq_len", 256), family.get("max_image_seq_len", 4096)
    low, high = family.get("base_shift", 0.5), family.get("max_shift", most)
    slope = (high - low) / (many - few)
    found: float = tokens * slope + (low - slope * few)
    return found


def whole_frames(settings: Settings, time: int, title: str) -> tuple[Settings, tuple[str, ...]]:
    """Return settings with the nearest number of frames that can be made, and what changed.

    Args:
        settings: frames 1 or more.
        time: frames that the autoencoder makes of one latent frame; of the first it makes one.
        title: of the engine.
    """
    frames = int((settings.frames - 1) / time + 0.5) * time + 1
    if frames == settings.frames:
        return settings, ()
    note = (
        f"{title} makes one frame more than a multiple of {time}: {frames} frames, not "
        f"{settings.frames}."
    )
    return replace(settings, frames=frames), (note,)
