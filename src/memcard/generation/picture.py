"""An image that keeps its text when it is saved.

Pillow reads a PNG's texts into ``info`` but does not write them back; who saves a picture from a
notebook would lose how it was made.
"""

from __future__ import annotations

from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor


class Picture(Image.Image):
    """A Pillow image whose ``info["parameters"]`` goes into every PNG that is saved of it."""

    def save(self, fp: Any, format: str | None = None, **params: Any) -> None:  # noqa: A002
        """Save as Pillow does, with the text unless ``pnginfo`` says otherwise."""
        if "parameters" in self.info and "pnginfo" not in params:
            params["pnginfo"] = texts({"parameters": self.info["parameters"]})
        super().save(fp, format, **params)


def picture(pixels: Tensor) -> Picture:
    """Return an 8-bit picture of pixels in 0..1, shape [height, width, 3]."""
    image = Image.fromarray((pixels * 255).round().byte().numpy())
    image.__class__ = Picture  # adds one method; Pillow has no public way to make a subclass
    assert isinstance(image, Picture)  # noqa: S101  # for the type checker
    return image


def texts(pairs: dict[str, str]) -> PngInfo:
    """Return text chunks in the order of ``pairs``."""
    chunks = PngInfo()
    for key, text in pairs.items():
        # tEXt is latin-1; what is not plain goes into iTXt, which every reader of A1111's texts knows.
        if text.isascii():
            chunks.add_text(key, text)
        else:
            chunks.add_itxt(key, text)
    return chunks
