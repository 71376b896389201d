"""What Flux.1 sees beside the noise: a picture with a hole, a picture to change, a drawing to follow.

Fill and Canny or Depth have a wider first layer: what they see is joined to each token, channel by channel.
Kontext has the layer of dev: the picture's own tokens follow those of the noise, and their places say so.
No weight tells Kontext from dev; its name does, or the user (``Settings.edit``).

Source: black-forest-labs/flux ``sampling.py`` (``prepare_fill``, ``prepare_control``, ``prepare_kontext``);
diffusers ``pipeline_flux_fill.py``, ``pipeline_flux_control.py``, ``pipeline_flux_kontext.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import torch
from torch import Generator, Tensor

from memcard.errors import MismatchError, UsageError
from memcard.generation.denoise import Start, encode_pixels
from memcard.generation.engine import NAMED, Cond, Pipeline
from memcard.generation.finite import tiles
from memcard.generation.settings import Settings

if TYPE_CHECKING:
    from memcard.generation.passes import Picture

Kind: TypeAlias = Literal["plain", "fill", "control"]

# What each was published with.
_USUAL: Final[dict[str, dict[str, Any]]] = {
    "fill": {"steps": 50, "guidance": 30.0},
    "control": {"steps": 50, "guidance": 30.0},  # canny
    "depth": {"steps": 30, "guidance": 10.0},
    "kontext": {"guidance": 2.5, "edit": True},
}
_SAID: Final = "no guidance, said"
_EITHER: Final = "canny or depth"  # the variant of ``architectures``: no weight tells which
# Sizes Kontext was trained on, (width, height), a million pixels each: black-forest-labs/flux ``util.py``.
_KONTEXT_SIZES: Final = (
    (672, 1568), (688, 1504), (720, 1456), (752, 1392), (800, 1328), (832, 1248), (880, 1184),
    (944, 1104), (1024, 1024), (1104, 944), (1184, 880), (1248, 832), (1328, 800), (1392, 752),
    (1456, 720), (1504, 688), (1568, 672),
)  # fmt: skip


def latent_channels(pipeline: Pipeline) -> int:
    """Return how many channels the noise has before it is packed; 16 where no VAE is there to ask."""
    return int(pipeline.configs.get("vae", {}).get("latent_channels", 16))


def kind(pipeline: Pipeline) -> Kind:
    """Return what the first layer takes beside the noise.

    Raises:
        MismatchError: it takes something that is not known here.
    """
    own = 4 * latent_channels(pipeline)
    more = int(pipeline.configs["transformer"]["in_channels"]) - own
    mask = 4 * (pipeline.factor if "vae" in pipeline.configs else 8) ** 2
    kinds: dict[int, Kind] = {0: "plain", own: "control", own + mask: "fill"}
    if more not in kinds:
        raise MismatchError(
            f"the transformer takes {more} channels beside the {own} of the noise. Known are 0 (dev, schnell, "
            f"Kontext), {own} (Canny, Depth) and {own + mask} (Fill); use one of these, or a VAE that fits."
        )
    return kinds[more]


def usual(pipeline: Pipeline) -> dict[str, Any]:
    """Return the settings of Fill, Canny, Depth and Kontext; nothing for dev."""
    found, name = kind(pipeline), named(pipeline)
    if found == "plain":
        return dict(_USUAL["kontext"]) if "kontext" in name else {}
    return dict(_USUAL["depth" if found == "control" and "depth" in name else found])


def named(pipeline: Pipeline) -> str:
    """Return what file and metadata call the model, in lower case; "" if nothing does."""
    return str(pipeline.extras.get(NAMED, "")).lower().replace(_EITHER, "")


def reads(pipeline: Pipeline, settings: Settings, size: tuple[int, int]) -> tuple[int, int] | None:
    """Return width and height in which a picture of ``size`` is looked at; None: those of the run.

    Kontext was trained on a million pixels; the nearest shape of those counts.
    """
    if not settings.edit or kind(pipeline) != "plain":
        return None
    shape = size[0] / size[1]
    return min(_KONTEXT_SIZES, key=lambda one: abs(shape - one[0] / one[1]))


def check(pipeline: Pipeline, settings: Settings, given: Collection[str]) -> None:
    """Refuse pictures that the model cannot use, and a run without those that it needs.

    Args:
        pipeline: the models.
        settings: of the run.
        given: of ``image``, ``mask``, ``control``, ``strength``, ``hires``.

    Raises:
        UsageError: says what the model is and what to name.
    """
    found = kind(pipeline)
    _note_guidance(pipeline, settings)
    if found == "fill":
        _check_fill(given)
    elif found == "control":
        if "control" not in given:
            raise UsageError(
                "this checkpoint is Flux.1 Canny or Depth: it follows a drawing. Name the edges or the depths "
                "with --control-image."
            )
    elif "control" in given:
        raise UsageError(
            "this checkpoint takes no control picture: it is no Flux.1 Canny or Depth. Leave --control-image "
            "out, or choose another checkpoint."
        )
    if settings.edit:
        _check_edit(found, given)


def _note_guidance(pipeline: Pipeline, settings: Settings) -> None:
    """Say once that a guidance somebody asked for does nothing."""
    if settings.guidance is None or pipeline.configs["transformer"]["guidance_embeds"]:
        return
    extras: Any = pipeline.extras
    if not extras.get(_SAID):
        extras[_SAID] = True
        extras.setdefault("notes", []).append(
            "This model was distilled without a guidance (schnell): the one that was asked for does nothing."
        )


def _check_fill(given: Collection[str]) -> None:
    if not {"image", "mask"} <= set(given):
        raise UsageError(
            "this checkpoint is Flux.1 Fill: it fills a part of a picture. Name the picture with --image and "
            "the part with --mask."
        )
    for what, option in (("hires", "--hires"), ("control", "--control-image")):
        if what in given:
            raise UsageError(f"Flux.1 Fill has no use for {option}; leave it out.")


def _check_edit(found: Kind, given: Collection[str]) -> None:
    if found != "plain":
        raise UsageError(
            "this checkpoint cannot change a picture by words: it is no Flux.1 Kontext. Leave --edit out."
        )
    if "image" not in given:
        return  # Kontext paints out of nothing too
    for what, option, why in (
        ("mask", "--mask", "the words say what changes"),
        (
            "strength",
            "--strength",
            "the picture is looked at, not painted over; --no-edit begins from it",
        ),
        ("hires", "--hires", "give the size with --size"),
    ):
        if what in given:
            raise UsageError(f"{option} does not go with a picture to change: {why}. Leave it out.")


def start(
    pipeline: Pipeline, picture: Picture | None, control: Tensor | None, settings: Settings
) -> Callable[[Generator], Start] | None:
    """Return what gives the beginning of a run; None: as with any other model.

    Random numbers are drawn in the order of diffusers' pipelines: the drawing and the picture before the
    noise, the picture with a hole after it.
    """
    found = kind(pipeline)
    if found == "fill":
        assert picture is not None, "checked before"  # noqa: S101
        return _filling(pipeline, picture, settings)
    if found == "control":
        assert control is not None, "checked before"  # noqa: S101
        return _following(pipeline, picture, control, settings)
    if settings.edit and picture is not None:
        seen = reference(pipeline, picture.pixels, settings)
        return lambda source: Start(seen["reference"], 1.0, pure=True, later=lambda source: seen)
    return None


def _filling(
    pipeline: Pipeline, picture: Picture, settings: Settings
) -> Callable[[Generator], Start]:
    def begin(source: Generator) -> Start:
        latents = encode_pixels(pipeline, picture.pixels, settings, source)
        return Start(latents, picture.strength, later=hole)

    def hole(source: Generator) -> Cond:
        assert picture.mask is not None, "checked before"  # noqa: S101
        return {"beside": holed(pipeline, picture.pixels, picture.mask, settings, source)}

    return begin


def _following(
    pipeline: Pipeline, picture: Picture | None, control: Tensor, settings: Settings
) -> Callable[[Generator], Start]:
    def begin(source: Generator) -> Start:
        seen = {"beside": encode_pixels(pipeline, control, settings, source)}
        if picture is None:
            return Start(seen["beside"], 1.0, pure=True, later=lambda source: seen)
        latents = encode_pixels(pipeline, picture.pixels, settings, source)
        mask = None if picture.mask is None else corners(pipeline, picture.mask).to(latents)
        return Start(latents, picture.strength, mask, later=lambda source: seen)

    return begin


def holed(
    pipeline: Pipeline, pixels: Tensor, mask: Tensor, settings: Settings, source: Generator
) -> Tensor:
    """Return what Fill sees: a picture that is grey under the mask, and the mask.

    Args:
        pipeline: the models.
        pixels: 0..1, [height, width, 3].
        mask: 0..1, [height, width]; from one half on the picture is filled.
        settings: of the run.
        source: of the autoencoder's draw.

    Returns:
        [1, tokens, 4 * latent channels + 4 * factor**2]: every pixel of the mask is kept, as channels.
    """
    white = (mask >= 0.5).float()
    seen = torch.where(white[..., None] > 0, torch.full((), 0.5), pixels)
    latents = encode_pixels(pipeline, seen, settings, source)
    high, wide, side = *mask.shape, pipeline.factor
    cells = white.reshape(high // side, side, wide // side, side).permute(1, 3, 0, 2)
    cells = cells.reshape(1, side * side, high // side, wide // side)
    return torch.cat([latents, packed(cells).to(latents)], dim=-1)


def reference(pipeline: Pipeline, pixels: Tensor, settings: Settings) -> Cond:
    """Return the tokens of a picture to change, and their places; nothing is drawn."""
    config = pipeline.configs["vae"]
    image = (pixels * 2 - 1).permute(2, 0, 1)[None].to(pipeline.device, pipeline.dtype)
    with torch.inference_mode(), tiles(pipeline, settings):
        latents = pipeline.vae.encode(image).latent_dist.mode()
        latents = (latents - (config.get("shift_factor") or 0)) * config["scaling_factor"]
    where = places(latents.shape[-2] // 2, latents.shape[-1] // 2)
    where[:, 0] = 1
    return {"reference": packed(latents), "places": where[None].to(pipeline.device)}


def joined(latents: Tensor, where: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
    """Return tokens and their places with what the model sees beside them."""
    if "beside" in cond:
        latents = torch.cat([latents, cond["beside"]], dim=2)
    if "reference" in cond:
        latents = torch.cat([latents, cond["reference"]], dim=1)
        where = torch.cat([where, cond["places"][0]])
    return latents, where


def corners(pipeline: Pipeline, mask: Tensor) -> Tensor:
    """Return a mask of pixels, [height, width] in 0..1, in the layout of the latents.

    Each latent takes the pixel at its corner, as diffusers' FluxInpaintPipeline does.
    """
    size = [side // pipeline.factor for side in mask.shape]
    small = torch.nn.functional.interpolate(mask[None, None].float(), size=size)
    return packed(small.expand(1, latent_channels(pipeline), *size))


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


def places(rows: int, columns: int) -> Tensor:
    """Return where each token lies: [tokens, 3], picture, row, column; the noise is picture 0."""
    found = torch.zeros(rows, columns, 3)
    found[..., 1] += torch.arange(rows)[:, None]
    found[..., 2] += torch.arange(columns)[None]
    return found.reshape(rows * columns, 3)
