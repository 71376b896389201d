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
from torch import Generator, Tensor

from memcard.errors import UsageError
from memcard.generation.engine import FULL_VAE, LOW_MEMORY, Pipeline
from memcard.generation.settings import Settings

# Pixels from which a picture is decoded in tiles. An autoencoder of Stable Diffusion keeps several maps of
# 256 or 512 channels over all pixels at once: at 2048 x 2048 in float32 that is more than 10 GB. The limit is a
# fixed one, since tiles change a picture a little and the same seed shall give the same picture.
TILED_FROM: Final = 2048 * 2048 + 1
_LOADED: Final = "vae in float32, loaded"
# Of autoencoders for clips. 8 frames of each 32 are made twice, to blend them; as diffusers has it, with 16, it
# is every frame, which took twice the time of the whole.
_IN_TIME: Final = {
    "use_framewise_decoding": True,
    "use_framewise_encoding": True,
    "tile_sample_min_num_frames": 32,
    "tile_sample_stride_num_frames": 24,
}


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


def decoded(
    pipeline: Pipeline, latents: Tensor, settings: Settings, source: Generator | None = None
) -> Tensor:
    """Return pixels, from an autoencoder in float32 if half precision does not hold them.

    What happened is put into the pipeline's ``notes``. A second try draws what the first one drew from
    ``source``.

    Raises:
        UsageError: float32 does not hold them either.
    """
    if _LOADED in pipeline.extras:
        return _in_full(pipeline, latents, settings, source)
    state = None if source is None else source.get_state()
    pixels = _drawn(pipeline, latents, settings, source)
    if torch.isfinite(pixels).all():
        return pixels
    name = str(pipeline.dtype).removeprefix("torch.")
    if pipeline.dtype != torch.float32 and FULL_VAE in pipeline.extras:
        extras: Any = pipeline.extras
        extras[_LOADED] = extras[FULL_VAE]()
        note = f"The VAE overflows in {name}; it decodes in float32. Another VAE goes with --vae."
        extras.setdefault("notes", []).append(note)
        if source is not None and state is not None:
            source.set_state(state)
        pixels = _in_full(pipeline, latents, settings, source)
    if not torch.isfinite(pixels).all():
        raise UsageError(
            "the VAE gave values that are no numbers, in float32 too. Its weights may be damaged; choose "
            "another with --vae."
        )
    return pixels


def _drawn(
    pipeline: Pipeline, latents: Tensor, settings: Settings, source: Generator | None
) -> Tensor:
    """Decode, with random numbers for engines whose decoder draws some."""
    engine: Any = pipeline.engine
    more = {"source": source} if getattr(engine, "decodes_with_source", False) else {}
    pixels: Tensor = engine.decode(pipeline, latents, settings, **more)
    return pixels


def _in_full(
    pipeline: Pipeline, latents: Tensor, settings: Settings, source: Generator | None
) -> Tensor:
    full = replace(pipeline.with_modules(vae=pipeline.extras[_LOADED]), dtype=torch.float32)
    with tiles(full, settings):
        return _drawn(full, latents.float(), settings, source)


@contextmanager
def tiles(pipeline: Pipeline, settings: Settings) -> Iterator[None]:
    """Work on large pictures in overlapping tiles, as diffusers does; on any with little memory.

    A clip is then also decoded a few frames at a time, where the autoencoder can.
    """
    vae = pipeline.vae
    little = bool(pipeline.extras.get(LOW_MEMORY))
    large = settings.width * settings.height >= TILED_FROM
    if not (little or large) or not hasattr(vae, "enable_tiling"):
        yield
        return
    vae.enable_tiling()
    vae.enable_slicing()
    before = {name: getattr(vae, name) for name in _IN_TIME if little and hasattr(vae, name)}
    for name in before:
        setattr(vae, name, _IN_TIME[name])
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(vae, name, value)
        vae.disable_tiling()
        vae.disable_slicing()
