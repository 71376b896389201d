"""One picture from start to end: out of noise or out of a picture, whole or under a mask, once or twice.

Source: Meng et al. 2021, arXiv:2108.01073 (a picture with noise as the start); diffusers
``pipeline_stable_diffusion_img2img.py`` and ``..._inpaint.py``, whose order of random numbers is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
from torch import Generator, Tensor
from torch.nn.functional import interpolate

from memcard.errors import UsageError
from memcard.generation import depth, instruct
from memcard.generation.denoise import Conditions, Start, StepDone, decode, denoise, encode_pixels
from memcard.generation.engine import Cond, Pipeline
from memcard.generation.latents import generator
from memcard.generation.settings import Settings

Upscaler: TypeAlias = Literal["lanczos", "latent"]


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture to begin from.

    Attributes:
        pixels: 0..1, [height, width, 3], of the size that is painted; or a clip, [frames, height, width, 3].
        strength: 0..1, how much of the way from noise is walked; 1 leaves nothing of the picture.
        mask: 0..1, [height, width]: 1 where the picture may change; None: everywhere.
        last: the last frame of a clip that begins with this picture, for engines that can.
    """

    pixels: Tensor
    strength: float
    mask: Tensor | None = None
    last: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Larger:
    """A second pass over the picture, made larger ("hires fix").

    Attributes:
        scale: over 1; each side is multiplied and rounded to what the family can paint.
        strength: 0..1, as of ``Picture``.
        steps: that are really walked, whatever the strength; None for as many as the first pass has.
        upscaler: ``lanczos`` on the pixels, or ``latent``: bilinear on the latents.
    """

    scale: float
    strength: float = 0.5
    steps: int | None = None
    upscaler: Upscaler = "lanczos"

    def settings(self, first: Settings, multiple: int) -> Settings:
        """Return the settings of the second pass."""
        width, height = (
            max(multiple, round(side * self.scale / multiple) * multiple)
            for side in (first.width, first.height)
        )
        steps = math.ceil((self.steps or first.steps) / self.strength - 1e-9)
        return replace(first, width=width, height=height, steps=steps, edit=False)


def check(picture: Picture | None, larger: Larger | None) -> None:
    """Refuse what is out of its range.

    Raises:
        UsageError: says which and what is possible.
    """
    for what, one in (("strength", picture), ("hires strength", larger)):
        if one is not None and not 0 < one.strength <= 1:
            raise UsageError(
                f"{what} {one.strength:g} is not in 0..1: near 0 keeps the picture, 1 forgets it."
            )
    if larger is not None and not 1 < larger.scale <= 8:
        raise UsageError(f"hires scale {larger.scale:g} is not above 1 and at most 8.")
    if larger is not None and larger.steps is not None and larger.steps < 1:
        raise UsageError(f"hires steps {larger.steps}: at least 1 is needed.")


def begin(pipeline: Pipeline, picture: Picture, settings: Settings, source: Generator) -> Start:
    """Return where a picture starts; its latents are drawn from ``source`` before any noise is."""
    whole = picture.mask is not None and picture.strength >= 1  # nothing of it is left
    if inpaints(pipeline):
        held = (
            picture.pixels if whole else encode_pixels(pipeline, picture.pixels, settings, source)
        )
        return Start(held, picture.strength, None, whole, _masked(pipeline, picture, settings))
    if instruct.instructed(pipeline):
        seen = instruct.seen(pipeline, picture.pixels)
        return Start(picture.pixels, 1.0, pure=True, later=lambda source: seen)
    latents = encode_pixels(pipeline, picture.pixels, settings, source)
    if picture.mask is None:
        return Start(latents, picture.strength)
    return Start(latents, picture.strength, mask_of(pipeline, picture.mask, latents), whole)


def inpaints(pipeline: Pipeline) -> bool:
    """Whether the denoiser sees a mask and the masked picture beside the noise."""
    channels = pipeline.configs.get("unet", {}).get("in_channels", 0)
    latents = int(pipeline.configs["vae"].get("latent_channels", 0))
    return bool(latents) and bool(channels == 2 * latents + 1)


def _masked(
    pipeline: Pipeline, picture: Picture, settings: Settings
) -> Callable[[Generator], Cond]:
    """Return what draws the mask and the masked picture, [1, 1 + channels, height, width]."""
    mask = picture.mask
    assert mask is not None, "the caller refused to paint without one"  # noqa: S101

    def draw(source: Generator) -> Cond:
        # A masked pixel is black in -1..1, which is grey in 0..1.
        kept = torch.where(mask[..., None] < 0.5, picture.pixels, torch.full((), 0.5))
        latents = encode_pixels(pipeline, kept, settings, source)
        return {"beside": torch.cat([mask_of(pipeline, mask, latents), latents], dim=1)}

    return draw


def mask_of(pipeline: Pipeline, mask: Tensor, latents: Tensor) -> Tensor:
    """Return a mask of pixels in the layout of latents."""
    own = getattr(pipeline.engine, "mask", None)
    if own is not None:
        found: Tensor = own(pipeline, mask)
        return found.to(latents)
    size = (latents.shape[-2], latents.shape[-1])
    return interpolate(mask[None, None].float(), size=size).to(latents)


def paint(
    pipeline: Pipeline,
    told: Conditions,
    settings: Settings,
    seed: int,
    step_done: StepDone = lambda done, total, latents: None,
    *,
    picture: Picture | None = None,
    control: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return pixels in 0..1, [frames, height, width, 3] float32 on the CPU, and the latents they are of.

    Args:
        pipeline: the models.
        told: from ``conditions``.
        settings: of the run.
        seed: of all noise in this picture.
        step_done: told after each run of the denoiser.
        picture: to begin from, or what the model makes of it, as its engine says.
        control: a drawing that the denoiser itself follows, 0..1, [height, width, 3]; a ControlNet has its own.

    Raises:
        UsageError: the model cannot use these, or needs others.
    """
    source = generator(seed)
    latents = _walked(pipeline, told, settings, source, step_done, picture, control)
    pixels = decode(pipeline, latents, settings, source)
    if picture is not None and picture.mask is not None:
        keep = picture.mask[None, ..., None].to(pixels)
        pixels = keep * pixels + (1 - keep) * picture.pixels[None].to(pixels)
    return pixels, latents


def begun(
    pipeline: Pipeline,
    told: Conditions,
    settings: Settings,
    seed: int,
    until: float,
    step_done: StepDone = lambda done, total, latents: None,
    *,
    picture: Picture | None = None,
) -> Tensor:
    """Return the latents of a picture that another model will ``finish``; arguments as of ``paint``.

    Args:
        pipeline: the first model.
        told: to it.
        settings: of the run.
        seed: of all noise in this picture.
        until: 0..1, the share of the way that it walks.
        step_done: told after each run of the denoiser.
        picture: to begin from.
    """
    source = generator(seed)
    return _walked(pipeline, told, settings, source, step_done, picture, None, until)


def _walked(
    pipeline: Pipeline,
    told: Conditions,
    settings: Settings,
    source: Generator,
    step_done: StepDone,
    picture: Picture | None,
    control: Tensor | None,
    until: float | None = None,
) -> Tensor:
    given = {"image": picture, "mask": picture and picture.mask, "control": control}
    given["last"] = picture and picture.last
    check_given(pipeline, settings, {what for what, one in given.items() if one is not None})
    start = _start(pipeline, picture, control, settings)
    return denoise(
        *(pipeline, told, settings, 0, step_done), start=start, source=source, until=until
    )


def check_given(pipeline: Pipeline, settings: Settings, given: Collection[str]) -> None:
    """Refuse pictures that a model cannot use, and a run without those that it needs.

    Args:
        pipeline: the models.
        settings: of the run.
        given: of ``image``, ``last``, ``mask``, ``control``, ``strength``, ``hires``: what the user said.

    Raises:
        UsageError: says what the model is and what to name.
    """
    if "last" in given and not getattr(pipeline.engine, "ends_at_picture", False):
        raise UsageError(
            "this checkpoint makes nothing that ends at a picture. Leave --last-image out."
        )
    edits = getattr(pipeline.engine, "edits", False) or instruct.instructed(pipeline)
    if settings.edit and not edits:
        raise UsageError(
            "this checkpoint cannot change a picture by words. Leave --edit out: --image is then where painting "
            "begins."
        )
    own = getattr(pipeline.engine, "check", None)
    if own is not None:
        own(pipeline, settings, given)
        return
    if instruct.instructed(pipeline):
        instruct.check(settings, given)
        return
    if depth.mapped(pipeline):
        depth.check(given)
        return
    if settings.image_cfg is not None:
        raise UsageError(
            "image cfg is for checkpoints that follow instructions (InstructPix2Pix, CosXL Edit); this one does "
            "not. Leave --image-cfg out."
        )
    if "control" in given:
        raise UsageError(
            "this checkpoint follows no drawing by itself. Name a ControlNet with --control, or leave "
            "--control-image out."
        )
    if inpaints(pipeline) and not {"image", "mask"} <= set(given):
        raise UsageError(
            "this checkpoint is an inpainting model: it fills a part of a picture. Name the picture with "
            "--image and the part with --mask."
        )


def _start(
    pipeline: Pipeline, picture: Picture | None, control: Tensor | None, settings: Settings
) -> Callable[[Generator], Start] | None:
    """Return what gives the beginning of a run: of the engine, where it has a way of its own."""
    own = getattr(pipeline.engine, "start", None)
    found: Callable[[Generator], Start] | None = None
    if own is not None:
        found = own(pipeline, picture, control, settings)
    if found is not None or picture is None:
        return found
    if control is not None and depth.mapped(pipeline):

        def over(source: Generator) -> Start:
            start = begin(pipeline, picture, settings, source)
            seen = depth.seen(pipeline, control, start.latents)
            return replace(start, later=lambda source: seen)

        return over
    return lambda source: begin(pipeline, picture, settings, source)


def finish(
    pipeline: Pipeline,
    told: Conditions,
    settings: Settings,
    seed: int,
    latents: Tensor,
    at: float,
    step_done: StepDone = lambda done, total, latents: None,
) -> tuple[Tensor, Tensor]:
    """Return what ``paint`` does, of a picture that another model began.

    Args:
        pipeline: the second model.
        told: to it.
        settings: of the run.
        seed: of random numbers that its sampler draws.
        latents: of the first model, with the noise that is left in them.
        at: 0..1, the share of the way that the first model walked.
        step_done: told after each run of the denoiser.
    """
    source = generator(seed)
    start = Start(latents, 1.0, since=at)
    found = denoise(
        *(pipeline, told, settings, seed, step_done), start=lambda _: start, source=source
    )
    return decode(pipeline, found, settings, source), found


def enlarge(
    pipeline: Pipeline,
    told: Conditions,
    first: tuple[Tensor, Tensor],
    settings: Settings,
    larger: Larger,
    seed: int,
    step_done: StepDone = lambda done, total, latents: None,
    *,
    control: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return what ``paint`` does, of the second pass.

    Args:
        pipeline: the models.
        told: for the second pass.
        first: pixels and latents of the first pass.
        settings: of the second pass.
        larger: how.
        seed: of its noise.
        step_done: told after each run of the denoiser.
        control: as of ``paint``, of the first pass's size or larger.
    """
    if inpaints(pipeline) or instruct.instructed(pipeline):
        raise UsageError(
            "this checkpoint sees a picture beside the noise, so it has no second pass: leave --hires out, and "
            "make the result larger with another checkpoint and --image."
        )
    if larger.upscaler == "latent" and depth.mapped(pipeline):
        raise UsageError("this checkpoint sees a map beside the noise: use the upscaler lanczos.")
    pixels, latents = first
    if larger.upscaler == "lanczos":
        size = settings.width, settings.height
        reads_clips = getattr(pipeline.engine, "reads_clips", False)
        whole = pixels if len(pixels) > 1 and reads_clips else pixels[:1]
        grown = torch.stack([resized(one, *size) for one in whole])
        picture = Picture(grown if len(grown) > 1 else grown[0], larger.strength)
        control = None if control is None else resized(control, *size)
        return paint(pipeline, told, settings, seed, step_done, picture=picture, control=control)
    if latents.ndim != 4:
        raise UsageError(
            "the latents of this family are no picture, so they cannot be made larger as one. "
            "Use the upscaler lanczos."
        )
    size = (settings.height // pipeline.factor, settings.width // pipeline.factor)
    grown = interpolate(latents.float(), size=size, mode="bilinear").to(latents)
    start = Start(grown, larger.strength)
    found = denoise(pipeline, told, settings, seed, step_done, start=lambda source: start)
    return decode(pipeline, found, settings), found


def resized(pixels: Tensor, width: int, height: int) -> Tensor:
    """Return a picture in 0..1, [height, width, 3], of another size; Lanczos, each channel in float32."""
    import numpy as np
    from PIL import Image

    channels = [
        Image.fromarray(channel.contiguous().numpy(), mode="F").resize(
            (width, height), Image.Resampling.LANCZOS
        )
        for channel in pixels.float().cpu().unbind(-1)
    ]
    made = torch.from_numpy(np.stack([np.asarray(channel) for channel in channels], axis=-1))
    return made.clamp(0, 1)
