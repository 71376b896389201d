"""Aspect buckets: pictures keep their shape, and a batch holds pictures of one size.

Every bucket has at most the area of the base's own size and sides that the UNet can halve. A picture goes
into the bucket whose shape is nearest, is scaled until it covers it, and loses what stands over on two
sides alike.

Source: NovelAI, "Improvements on Stable Diffusion", 2022 (aspect ratio bucketing); Podell et al. 2023,
arXiv:2307.01952, section 2.2 (original size and crop as conditions).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from memcard.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Size: TypeAlias = tuple[int, int]  # width, height in pixels


@dataclass(frozen=True, slots=True)
class Crop:
    """How a picture becomes one of its bucket.

    Attributes:
        original: its size as shown.
        scaled: the size it is brought to; covers the bucket.
        left: pixels cut off at the left, of the scaled picture.
        top: likewise.
        bucket: the size that is left.
    """

    original: Size
    scaled: Size
    left: int
    top: int
    bucket: Size

    @property
    def enlarged(self) -> bool:
        """Whether it had fewer pixels than its bucket needs."""
        return self.scaled[0] > self.original[0] or self.scaled[1] > self.original[1]

    @property
    def conditions(self) -> tuple[int, ...]:
        """SDXL's six numbers: original height and width, top, left, target height and width."""
        (w, h), (bucket_w, bucket_h) = self.original, self.bucket
        return (h, w, self.top, self.left, bucket_h, bucket_w)


def bucket_sizes(size: Size, step: int, *, square: bool = False) -> tuple[Size, ...]:
    """Return all buckets, the narrowest first.

    Args:
        size: width and height whose area is the largest; itself a bucket.
        step: every side is a multiple of it.
        square: only this one size (``--no-buckets``).

    Raises:
        UsageError: a side is no multiple of ``step``.
    """
    width, height = size
    if width < step or height < step or width % step or height % step:
        raise UsageError(
            f"size {width}x{height}: each side must be a multiple of {step}, the smallest step of this model."
        )
    if square:
        return (size,)
    area, longest = width * height, 2 * max(width, height)
    shortest = max(step, math.ceil(min(width, height) / 2 / step) * step)
    found = {size}
    for side in range(shortest, longest + 1, step):
        other = min(longest, area // side // step * step)
        if other >= shortest:
            found |= {(side, other), (other, side)}
    return tuple(sorted(found, key=lambda s: (s[0] / s[1], s[0])))


def crop_to(original: Size, buckets: Sequence[Size]) -> Crop:
    """Choose the bucket of nearest shape, the larger of two that are equally near."""
    width, height = original
    shape = math.log(width / height)
    bucket = min(buckets, key=lambda b: (abs(math.log(b[0] / b[1]) - shape), -b[0] * b[1]))
    scale = max(bucket[0] / width, bucket[1] / height)
    scaled = (max(bucket[0], round(width * scale)), max(bucket[1], round(height * scale)))
    left, top = (scaled[0] - bucket[0]) // 2, (scaled[1] - bucket[1]) // 2
    return Crop(original, scaled, left, top, bucket)


def pixels(path: Path, crop: Crop, *, flip: bool = False) -> NDArray[np.float32]:
    """Read a picture into its bucket: float32, [3, height, width], -1..1.

    What is transparent lies on white. A camera's turn is applied.

    Args:
        path: the file.
        crop: from ``crop_to``.
        flip: exchange left and right.
    """
    import numpy as np
    from PIL import Image, ImageOps

    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened)
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            white = Image.new("RGBA", image.size, (255, 255, 255, 255))
            image = Image.alpha_composite(white, image.convert("RGBA"))
        if image.mode.startswith("I"):  # 16 bits per pixel; convert() would cut off, not scale
            image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
        image = image.convert("RGB")
    if image.size != crop.scaled:
        image = image.resize(crop.scaled, Image.Resampling.LANCZOS)
    width, height = crop.bucket
    image = image.crop((crop.left, crop.top, crop.left + width, crop.top + height))
    if flip:
        image = ImageOps.mirror(image)
    values = np.asarray(image, dtype=np.float32) / np.float32(127.5) - 1
    return np.ascontiguousarray(values.transpose(2, 0, 1))
