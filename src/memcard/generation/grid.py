"""A contact sheet: rows of pictures with labels, columns with prompts, one seed throughout."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from memcard.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

INK, FAINT, PAPER = (28, 28, 32), (120, 120, 128), (255, 255, 255)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a sheet: what it shows, a finer line beneath, its pictures."""

    label: str
    detail: str
    images: Sequence[Image]


def sheet(rows: Sequence[Row], columns: Sequence[str], *, cell: int = 128, gap: int = 6) -> Image:
    """Return all pictures on one page.

    Args:
        rows: at least one; each with ``len(columns)`` pictures.
        columns: what each column shows; long ones are wrapped.
        cell: side of a picture on the sheet, in pixels. Small pictures are enlarged smoothly.
        gap: space between pictures, in pixels.

    Raises:
        UsageError: a row has another number of pictures than there are columns.
    """
    from PIL import Image, ImageDraw

    for row in rows:
        if len(row.images) != len(columns):
            raise UsageError(
                f"row {row.label!r} has {len(row.images)} pictures for {len(columns)} columns."
            )
    heads = [_wrapped(text, cell // 7) for text in columns]
    lines = max((head.count("\n") + 1 for head in heads), default=1)
    left, top = round(cell * 1.75), 14 + 16 * lines
    size = (left + len(columns) * (cell + gap) + gap, top + len(rows) * (cell + gap) + gap)
    page = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(page)
    for x, head in enumerate(heads):
        _text(draw, (left + x * (cell + gap), 8), head, size=13)
    for y, row in enumerate(rows):
        at = top + y * (cell + gap)
        detail = _wrapped(row.detail, left // 7)
        _text(draw, (10, at + cell // 2 - 22), row.label, size=16)
        _text(draw, (10, at + cell // 2 + 2), detail, size=12, ink=FAINT)
        for x, picture in enumerate(row.images):
            scaled = picture.convert("RGB").resize((cell, cell), Image.Resampling.BICUBIC)
            page.paste(scaled, (left + x * (cell + gap), at))
    return page


def _text(
    draw: ImageDraw, at: tuple[int, int], text: str, *, size: int, ink: tuple[int, int, int] = INK
) -> None:
    from PIL import ImageFont

    draw.multiline_text(at, text, fill=ink, font=ImageFont.load_default(size), spacing=2)


def _wrapped(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, max(width, 8), break_long_words=False))
