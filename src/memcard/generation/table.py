"""A labelled table of pictures on one page: any number of columns and rows, pictures of any sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from memcard.errors import UsageError
from memcard.generation._lettering import font_for, wrapped

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

INK, FAINT, PAPER, EMPTY = (28, 28, 32), (110, 110, 118), (255, 255, 255), (240, 240, 243)
MOST: Final = 36_000_000  # pixels of a page that any viewer opens
_LARGEST, _USUAL, _SMALLEST = (
    512,
    160,
    96,
)  # side of a cell; small pictures are enlarged to the second
_HEAD_LINES, _TITLE_LINES = 6, 4


@dataclass(frozen=True, slots=True)
class Slot:
    """One place of a table.

    Attributes:
        size: width and height of the picture, in pixels.
        open: returns it; None: there is no picture here.
        instead: what stands here then.
    """

    size: tuple[int, int]
    open: Callable[[], Image] | None
    instead: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """What is on a page.

    Attributes:
        title: what the page shows; may be empty.
        detail: what all its pictures have in common; may be empty.
        columns: a label for each.
        rows: a label for each.
        slots: row by row.
    """

    title: str
    detail: str
    columns: Sequence[str]
    rows: Sequence[str]
    slots: Sequence[Sequence[Slot]]


def draw(table: Table, *, cell: int | None = None, gap: int = 8) -> Image:
    """Return the page. Pictures are opened one after the other, so that memory holds one at a time.

    Args:
        table: what is on it.
        cell: longest side of a picture on the page, in pixels, 16 or more; None: the largest
            picture's own, at least 160, at most 512, less if the page had more than 36 million pixels.
        gap: space between pictures, in pixels.

    Raises:
        UsageError: the slots are not as many as the labels, or there are none; ``cell`` is too small.
    """
    from PIL import Image, ImageDraw

    _check(table, cell)
    side = cell or side_of(table)
    size = round(13 + side / 40)  # of the letters: larger cells are looked at from farther away
    widths, heights = _sides(table, side)
    left, labels = _rows(table, heights, side, size)
    width = max(left + sum(widths) + gap * (len(widths) + 1), 3 * side if table.title else 0)
    heading = _heading(table, width - 2 * gap, size)
    heads = [wrapped(c, font_for(c, size), w, _HEAD_LINES) for c, w in zip(table.columns, widths, strict=True)]  # fmt: skip
    top = gap + sum(_height(text, s) + gap // 2 for text, s, _ in heading)
    below = top + max((_height(head, size) for head in heads), default=0) + gap
    page = Image.new("RGB", (width, below + sum(heights) + gap * len(heights)), PAPER)
    pen, y = ImageDraw.Draw(page), gap
    for text, letters, ink in heading:
        _write(pen, (gap, y), text, letters, ink)
        y += _height(text, letters) + gap // 2
    for x, head in zip(_starts(widths, left + gap, gap), heads, strict=True):
        _write(pen, (x, below - gap // 2 - _height(head, size)), head, size)
    for i, y in enumerate(_starts(heights, below, gap)):
        _write(
            pen, (gap, y + max(0, (heights[i] - _height(labels[i], size)) // 2)), labels[i], size
        )
        for j, x in enumerate(_starts(widths, left + gap, gap)):
            _put(page, pen, table.slots[i][j], (x, y), (widths[j], heights[i]), side)
    return page


def side_of(table: Table) -> int:
    """Return the longest side that pictures get on a page nobody chose one for."""
    largest = max((max(s.size) for row in table.slots for s in row if s.open), default=_USUAL)
    wanted = min(max(largest, _USUAL), _LARGEST)
    fits = int((MOST / (len(table.columns) * len(table.rows))) ** 0.5)
    return max(_SMALLEST, min(wanted, fits))


def _check(table: Table, cell: int | None) -> None:
    if not table.rows or not table.columns:
        raise UsageError("a sheet needs at least one row and one column.")
    if len(table.slots) != len(table.rows):
        raise UsageError(f"{len(table.slots)} rows of pictures for {len(table.rows)} labels.")
    for label, row in zip(table.rows, table.slots, strict=True):
        if len(row) != len(table.columns):
            raise UsageError(
                f"row {label!r} has {len(row)} pictures for {len(table.columns)} columns."
            )
    if cell is not None and not 16 <= cell <= 4096:
        raise UsageError(f"a cell of {cell} pixels is not in 16..4096.")


def _shown(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return the size of a picture on the page: its longer side is ``side``."""
    scale = side / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _sides(table: Table, side: int) -> tuple[list[int], list[int]]:
    """Return the width of each column and the height of each row.

    At least half a cell, so that labels have room. One without any picture is as large as the others.
    """
    shown = [[_shown(s.size, side) if s.open else (0, 0) for s in row] for row in table.slots]
    widths = [max(row[j][0] for row in shown) for j in range(len(table.columns))]
    heights = [max(size[1] for size in row) for row in shown]
    most = max(widths) or side, max(heights) or side
    return (
        [max(width or most[0], side // 2) for width in widths],
        [max(height or most[1], side // 2) for height in heights],
    )


def _rows(table: Table, heights: Sequence[int], side: int, size: int) -> tuple[int, list[str]]:
    """Return how wide the column of row labels is, and the labels in lines."""
    most = max(round(side * 0.9), 12 * size)
    labels = []
    for text, height in zip(table.rows, heights, strict=True):
        lines = max(1, height // _line(size))
        labels.append(wrapped(text, font_for(text, size), most, lines))
    wide = max(font_for(t, size).getlength(line) for t in labels for line in t.split("\n"))
    return (8 + int(wide) if wide else 0), labels


def _heading(table: Table, width: int, size: int) -> list[tuple[str, int, tuple[int, int, int]]]:
    lines = ((table.title, round(size * 1.25), INK), (table.detail, size, FAINT))
    return [
        (wrapped(text, font_for(text, letters), width, _TITLE_LINES), letters, ink)
        for text, letters, ink in lines
        if text
    ]


def _put(
    page: Image,
    pen: ImageDraw,
    slot: Slot,
    at: tuple[int, int],
    room: tuple[int, int],
    side: int,
) -> None:
    from PIL import Image

    if slot.open is None:
        pen.rectangle((at, (at[0] + room[0] - 1, at[1] + room[1] - 1)), fill=EMPTY)
        size = max(11, round(side / 16))
        lines = max(1, (room[1] - 8) // _line(size))
        text = wrapped(slot.instead, font_for(slot.instead, size), room[0] - 12, lines)
        _write(pen, (at[0] + 6, at[1] + 4), text, size, FAINT)
        return
    picture = slot.open().convert("RGB")
    shown = _shown(picture.size, side)
    way = Image.Resampling.LANCZOS if shown < picture.size else Image.Resampling.BICUBIC
    page.paste(picture if shown == picture.size else picture.resize(shown, way), at)


def _starts(sizes: Sequence[int], start: int, gap: int) -> list[int]:
    return [start + sum(sizes[:i]) + gap * i for i in range(len(sizes))]


def _line(size: int) -> int:
    return round(size * 1.3)


def _height(text: str, size: int) -> int:
    return _line(size) * (text.count("\n") + 1)


def _write(
    pen: ImageDraw,
    at: tuple[int, int],
    text: str,
    size: int,
    ink: tuple[int, int, int] = INK,
) -> None:
    for i, line in enumerate(text.split("\n")):
        pen.text((at[0], at[1] + i * _line(size)), line, fill=ink, font=font_for(text, size))
