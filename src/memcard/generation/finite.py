"""What to do when numbers overflow: decode again in float32, or say in which step it happened.

float16 ends at 65,504. Some autoencoders (SDXL's first, many fine-tunes) go beyond that between their layers:
every pixel is then not a number, and the picture black.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor

from memcard.errors import UsageError
from memcard.generation.engine import FULL_VAE, LOW_MEMORY, Pipeline
from memcard.generation.settings import Settings

# Pixels from which a picture is decoded in tiles. An autoencoder of Stable Diffusion keeps several maps of
# 256 or 512 channels over all pixels at once: at 2048 x 2048 in float32 that is more than 10 GB. The limit is a
# fixed one, since tiles change a picture a little and the same seed shall give the same picture.
TILED_FROM: Final = 2048 * 2048 + 1
_LOADED: Final = "vae in float32, loaded"


def check_latents(latents: Tensor, done: int, total: int, pipeline: Pipeline) -> None:
    """Refuse latents with values that are no numbers.

    Raises:
        UsageError: names the step and what helps.
    """
    if torch.isfinite(latents).all():
        return
    name = str(pipeline.dtype).removeprefix("torch.")
    helps = "Compute in --dtype F32, or BF16 where the device has it"
    if pipeline.dtype == torch.float32:
        helps = "Its weights may be damaged: `memcard inspect` counts values that are not finite"
    raise UsageError(
        f"step {done} of {total}: the denoiser, computing in {name}, gave values that are no numbers, so "
        f"there is no picture. {helps}; a lower --cfg or another --sampler may help too."
    )


def decoded(pipeline: Pipeline, latents: Tensor, settings: Settings) -> Tensor:
    """Return pixels, from an autoencoder in float32 if half precision does not hold them.

    What happened is put into the pipeline's ``notes``.

    Raises:
        UsageError: float32 does not hold them either.
    """
    if _LOADED in pipeline.extras:
        return _in_full(pipeline, latents, settings)
    pixels = pipeline.engine.decode(pipeline, latents, settings)
    if torch.isfinite(pixels).all():
        return pixels
    name = str(pipeline.dtype).removeprefix("torch.")
    if pipeline.dtype != torch.float32 and FULL_VAE in pipeline.extras:
        extras: Any = pipeline.extras
        extras[_LOADED] = extras[FULL_VAE]()
        note = f"The VAE overflows in {name}; it decodes in float32. Another VAE goes with --vae."
        extras.setdefault("notes", []).append(note)
        pixels = _in_full(pipeline, latents, settings)
    if not torch.isfinite(pixels).all():
        raise UsageError(
            "the VAE gave values that are no numbers, in float32 too. Its weights may be damaged; choose "
            "another with --vae."
        )
    return pixels


def _in_full(pipeline: Pipeline, latents: Tensor, settings: Settings) -> Tensor:
    full = replace(pipeline.with_modules(vae=pipeline.extras[_LOADED]), dtype=torch.float32)
    with tiles(full, settings):
        return full.engine.decode(full, latents.float(), settings)


@contextmanager
def tiles(pipeline: Pipeline, settings: Settings) -> Iterator[None]:
    """Work on large pictures in overlapping tiles, as diffusers does; on any with little memory."""
    vae = pipeline.vae
    little = bool(pipeline.extras.get(LOW_MEMORY))
    large = settings.width * settings.height >= TILED_FROM
    if not (little or large) or not hasattr(vae, "enable_tiling"):
        yield
        return
    vae.enable_tiling()
    vae.enable_slicing()
    try:
        yield
    finally:
        vae.disable_tiling()
        vae.disable_slicing()
