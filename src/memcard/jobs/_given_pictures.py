"""Pictures that a run is given: read, brought to its size, put onto a larger canvas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from memcard.errors import CorruptError, NotFoundError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from memcard.generation.passes import Picture
    from memcard.generation.settings import Settings

Sides: TypeAlias = tuple[int, int, int, int]  # left, top, right, bottom
_SIDES = 4
_SEAM = 8  # pixels of a picture that are painted anew beside what is added
_MOST = 4096  # pixels added to a side
_ORIENTATION = 0x0112  # EXIF tag that says how a picture is turned
_LYING = (5, 6, 7, 8)  # its values for pictures that are turned by a quarter


def read_picture(
    path: str | Path,
    settings: Settings,
    strength: float,
    mask: str | Path | None,
    looked: tuple[int, int] | None = None,
    outpaint: Sides | None = None,
) -> Picture:
    """Return a picture to begin from, and where it may change, in the size of the settings.

    A picture of another shape is scaled until it fills the size, and cut at its sides.

    Args:
        path: the picture.
        settings: of the run.
        strength: of ``Picture``.
        mask: the picture that says where it may change.
        looked: width and height of ``path``, where they are not those of the settings.
        outpaint: pixels to add to its sides; there it may change too.

    Raises:
        NotFoundError: no such file.
        CorruptError: it is no picture.
    """
    from memcard.generation.passes import Picture

    size = (settings.width, settings.height)
    if outpaint is not None:
        return _larger(path, size, strength, mask, outpaint)
    pixels = fitted(path, looked or size, "RGB")
    where = None if mask is None else fitted(mask, size, "L")[..., 0]
    return Picture(pixels, strength, where)


def _larger(
    path: str | Path, size: tuple[int, int], strength: float, mask: str | Path | None, sides: Sides
) -> Picture:
    """Return a picture with more at its sides, and a mask of what is new."""
    from memcard.generation.passes import Picture

    inside = size_of(path, 1)
    canvas = tuple(a + b + c for a, b, c in zip(inside, sides[:2], sides[2:], strict=True))
    if any(have > want for have, want in zip(canvas, size, strict=True)):
        raise UsageError(
            f"{path}: with what is added it is {canvas[0]}x{canvas[1]}; the size {size[0]}x{size[1]} is "
            "smaller. Leave --size out, or add less."
        )
    pixels = fitted(path, inside, "RGB")
    where = None if mask is None else fitted(mask, inside, "L")[..., 0]
    found, changes = outpainted(pixels, where, size, sides)
    return Picture(found, strength, changes)


def outpainted(
    pixels: Tensor, mask: Tensor | None, size: tuple[int, int], sides: Sides
) -> tuple[Tensor, Tensor]:
    """Put a picture onto a larger canvas.

    What is new shows the nearest edge, stretched, as a hint of colour. The mask reaches a little into the
    picture and fades there, so that both flow into each other.

    Args:
        pixels: 0..1, [height, width, 3].
        mask: 0..1, [height, width]: 1 where the picture itself may change; None: nowhere.
        size: width and height of the canvas.
        sides: pixels left, above, right and below; what is left of the canvas goes to a side that grows
            anyway, or else to the right and below.

    Returns:
        The canvas, [height, width, 3], and its mask, [height, width].
    """
    import torch

    high, wide = pixels.shape[:2]
    left = _begin(sides[0], sides[2], size[0], wide)
    top = _begin(sides[1], sides[3], size[1], high)
    rows = (torch.arange(size[1]) - top).clamp(0, high - 1)
    columns = (torch.arange(size[0]) - left).clamp(0, wide - 1)
    changes = torch.maximum(
        _change(top, high, size[1])[:, None], _change(left, wide, size[0])[None]
    )
    if mask is not None:
        own = changes[top : top + high, left : left + wide]
        changes[top : top + high, left : left + wide] = torch.maximum(own, mask)
    return pixels[rows][:, columns], changes


def _change(begin: int, span: int, size: int) -> Tensor:
    """Return how much may change along one side: 1 in what is added, 0 in the picture, falling in the seams."""
    import torch

    seam = min(_SEAM, span // 4)
    at = torch.arange(size)
    first = (begin + seam - at) / (seam + 1) if begin else torch.zeros(size)
    end = begin + span
    last = (at - (end - seam - 1)) / (seam + 1) if end < size else torch.zeros(size)
    return torch.maximum(first, last).clamp(0, 1)


def _begin(before: int, after: int, size: int, own: int) -> int:
    """Return where a picture begins on its canvas, along one side."""
    rest = size - own - before - after
    return before + (rest if before and not after else 0)


def size_of(path: str | Path, multiple: int) -> tuple[int, int]:
    """Return width and height of a picture, rounded to what can be painted."""
    with _opened(path) as image:
        width, height = image.size
        if image.getexif().get(_ORIENTATION) in _LYING:
            width, height = height, width
    wide, high = (max(multiple, round(side / multiple) * multiple) for side in (width, height))
    return wide, high


def _opened(path: str | Path) -> Any:
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(Path(path).expanduser())
    except FileNotFoundError:
        raise NotFoundError(f"{path}: no such picture. Check the name.") from None
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise CorruptError(f"{path}: cannot be read as a picture: {error}.") from error


def fitted(path: str | Path, size: tuple[int, int], mode: str) -> Tensor:
    """Return a picture in 0..1, [height, width, 3], or [height, width, 1] in mode ``L``.

    One of another shape is scaled until it fills the size, and cut at its sides.

    Args:
        path: the file.
        size: width and height.
        mode: ``RGB`` or ``L``.

    Raises:
        NotFoundError: no such file.
        CorruptError: it is no picture.
    """
    import numpy as np
    import torch
    from PIL import ImageOps

    with _opened(path) as image:
        try:
            upright = _eight_bits(ImageOps.exif_transpose(image)).convert(mode)
        except (OSError, ValueError, SyntaxError) as error:
            raise CorruptError(f"{path}: cannot be read as a picture: {error}.") from error
    fitted = upright if upright.size == size else ImageOps.fit(upright, size)
    values = torch.from_numpy(np.asarray(fitted, dtype=np.float32) / 255)
    return values[..., None] if mode == "L" else values


def _eight_bits(image: Any) -> Any:
    """Return a grey picture of 16 bits, as many maps of depths are, in 8; PIL would cut its values off."""
    import numpy as np
    from PIL import Image

    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.float64) / 257  # 65,535 becomes 255
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))


def check_sides(outpaint: Sequence[int] | None, image: object) -> Sides | None:
    """Return what is added to a picture's sides.

    Raises:
        UsageError: there is no picture, or these are no four numbers of pixels.
    """
    if outpaint is None:
        return None
    if image is None:
        raise UsageError("outpainting adds to a picture; name it with --image.")
    fine = all(0 <= side <= _MOST and side == int(side) for side in outpaint)
    if len(outpaint) != _SIDES or not fine or not any(outpaint):
        raise UsageError(
            f"outpaint {', '.join(str(side) for side in outpaint)}: say how many pixels to add left, above, "
            f"right and below, as 0,0,256,0; 0 to {_MOST} each."
        )
    left, top, right, bottom = (int(side) for side in outpaint)
    return left, top, right, bottom


def sized(
    settings: Settings,
    image: str | Path | None,
    multiple: int,
    looked: tuple[int, int] | None = None,
    outpaint: Sides | None = None,
) -> Settings:
    """Return the settings with the size of a picture, unless somebody asked for another; or with ``looked``."""
    asked = {settings.origin.get(side) for side in ("width", "height")}
    if image is None or "user" in asked:
        return settings
    width, height = looked or size_of(image, multiple)
    if (
        outpaint is not None
    ):  # no pixel of the picture is lost or scaled: the canvas grows to the multiple
        own = size_of(image, 1)
        sides = (own[0] + outpaint[0] + outpaint[2], own[1] + outpaint[1] + outpaint[3])
        width, height = (-(-side // multiple) * multiple for side in sides)
    origin = {**settings.origin, "width": "user", "height": "user"}
    return replace(settings, width=width, height=height, origin=origin)


def shaped(settings: Settings, drawing: str | Path | None, multiple: int) -> Settings:
    """Return the settings with as many pixels in the shape of a drawing to follow, so that none of it is cut.

    Unless somebody asked for a size.
    """
    asked = {settings.origin.get(side) for side in ("width", "height")}
    if drawing is None or "user" in asked:
        return settings
    wide, high = size_of(drawing, 1)
    pixels = settings.width * settings.height
    sides = ((pixels * wide / high) ** 0.5, (pixels * high / wide) ** 0.5)
    width, height = (max(multiple, round(side / multiple) * multiple) for side in sides)
    origin = {**settings.origin, "width": "user", "height": "user"}
    return replace(settings, width=width, height=height, origin=origin)
