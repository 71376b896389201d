"""Differences as one picture: rows are blocks, columns kinds of layer, color how far they moved.

Cells are colored by the square root of the relative norm, up to the largest in the picture: small moves
stay visible beside large ones, and every cell also carries its number. Colors: ColorBrewer "OrRd".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import isfinite, sqrt
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from memcard.jobs._blocks import KINDS

if TYPE_CHECKING:
    from PIL.Image import Image

    from memcard.jobs._differences import Diff, Group
    from memcard.maths.compare import Distance

Color: TypeAlias = tuple[int, int, int]

# Drawn larger than kept: round corners become smooth. Two pixels a point are sharp on dense screens.
_SCALE: Final = 4
_KEPT: Final = 2
_INK, _FAINT, _LINE, _PAPER = (28, 28, 32), (120, 120, 128), (226, 226, 230), (255, 255, 255)
_EQUAL: Final = (240, 240, 243)
_HEAT: Final = (
    *((255, 247, 236), (254, 232, 200), (253, 212, 158), (253, 187, 132), (252, 141, 89)),
    *((239, 101, 72), (215, 48, 31), (179, 0, 0), (127, 0, 0)),
)
_MEANING: Final = "||B - A|| / ||A||, relative norm of the change"
_WIDTHS: Final = {"name": 132, "bar": 120, "cell": 62}
_ROW, _GAP, _MARGIN, _HEAD, _COLUMN = 20, 26, 28, 58, 44
_TITLES: Final[Mapping[str, str]] = {
    "cross-attention": "cross\nattention",
    "convolution": "convo-\nlution",
    "projection": "projec-\ntion",
    "fused": "attention\n+ mlp",
    "embedding": "embed-\nding",
}


@dataclass(frozen=True, slots=True)
class _Table:
    """One component: its rows, and the columns that hold something."""

    component: Group
    rows: tuple[Group, ...]
    kinds: tuple[str, ...]

    @property
    def width(self) -> int:
        return _WIDTHS["name"] + _WIDTHS["bar"] + len(self.kinds) * _WIDTHS["cell"]

    @property
    def height(self) -> int:
        return _COLUMN + 24 + len(self.rows) * _ROW


def heat_map(diff: Diff) -> Image:
    """Draw the blocks of a difference; components side by side, the largest first.

    Args:
        diff: of values, not of keys alone. A component that is equal is one word in the head.
    """
    tables = [_table(component, diff.blocks) for component in diff.components if component.moved]
    columns = _columns(tables)
    width = sum(max(t.width for t in column) for column in columns) + _GAP * max(
        0, len(columns) - 1
    )
    height = max((sum(t.height + _GAP for t in column) for column in columns), default=0)
    page = _Page(max(width, 640) + 2 * _MARGIN, _MARGIN + _HEAD + _GAP + height + 62)
    cells = [found for table in tables for row in table.rows for found in row.layers.values()]
    peak = max(map(_heat, cells), default=0.0)
    longest = max((_heat(row.distance) for table in tables for row in table.rows), default=0.0)
    _draw_head(page, diff)
    left = _MARGIN
    for column in columns:
        top = _MARGIN + _HEAD + _GAP
        for table in column:
            _draw_table(page, table, left, top, peak, longest)
            top += table.height + _GAP
        left += max(table.width for table in column) + _GAP
    _draw_legend(page, peak)
    return page.image.reduce(_SCALE // _KEPT)


def _table(component: Group, blocks: Sequence[Group]) -> _Table:
    rows = tuple(block for block in blocks if block.component == component.component)
    there = {kind for row in rows for kind in row.layers}
    return _Table(component, rows, tuple(kind for kind in KINDS if kind in there))


def _columns(tables: Sequence[_Table]) -> list[list[_Table]]:
    """Put the first component to the left, and the others beside it while they are not longer."""
    if len(tables) < 2:
        return [list(tables)] if tables else []
    first, *others = tables
    columns: list[list[_Table]] = [[first], []]
    for table in others:
        heights = [sum(t.height + _GAP for t in column) for column in columns]
        columns[heights.index(min(heights[1:]), 1) if heights[1] <= heights[0] else 0].append(table)
    return columns


class _Page:
    """A drawing in points from the top left; pixels are ``_SCALE`` times as many."""

    def __init__(self, width: int, height: int) -> None:
        from PIL import Image, ImageDraw

        self.width, self.height = width, height
        self.image = Image.new("RGB", (width * _SCALE, height * _SCALE), _PAPER)
        self._draw = ImageDraw.Draw(self.image)

    def text(
        self,
        at: tuple[float, float],
        text: str,
        *,
        size: int = 11,
        ink: Color = _INK,
        anchor: str = "lm",
    ) -> None:
        """Write at a point; ``anchor`` says which point of the text that is."""
        place = at[0] * _SCALE, at[1] * _SCALE
        font = _font(size)
        if "\n" in text:
            self._draw.multiline_text(
                place, text, fill=ink, font=font, anchor=anchor, align="center", spacing=2 * _SCALE
            )
            return
        self._draw.text(place, text, fill=ink, font=font, anchor=anchor)

    def box(
        self, x: float, y: float, width: float, height: float, color: Color, *, round_: int = 3
    ) -> None:
        """Fill a box with round corners."""
        corners = [x * _SCALE, y * _SCALE, (x + width) * _SCALE - 1, (y + height) * _SCALE - 1]
        self._draw.rounded_rectangle(corners, round_ * _SCALE, fill=color)

    def line(self, x: float, y: float, width: float) -> None:
        """Draw a thin rule."""
        self.box(x, y, width, 0.5, _LINE, round_=0)

    def fitted(self, text: str, width: float, size: int = 11) -> str:
        """Shorten a text in the middle until it fits."""
        font, whole = _font(size), text
        keep = len(whole)
        while font.getlength(text) > width * _SCALE and keep > 4:
            keep -= 2
            text = f"{whole[: keep // 2]}...{whole[-(keep // 2) :]}"
        return text


@cache
def _font(size: int) -> Any:
    """Return pillow's own typeface: the same picture on every machine."""
    from PIL import ImageFont

    return ImageFont.load_default(size * _SCALE)


def _draw_head(page: _Page, diff: Diff) -> None:
    room = page.width - 2 * _MARGIN
    names = f"{PurePath(diff.a).name}  to  {PurePath(diff.b).name}"
    page.text((_MARGIN, _MARGIN + 4), page.fitted(names, room, 19), size=19)
    counts = diff.counts
    still = [g.component.replace("_", " ") for g in diff.components if not g.moved]
    parts = [
        f"{counts['moved']} of {len(diff.changes)} tensors moved",
        f"{counts['equal']} equal bit for bit",
        f"{counts['same values']} equal, of another dtype" if counts["same values"] else "",
        f"{counts['shape']} of another shape" if counts["shape"] else "",
        f"{len(diff.only_a)} only in A" if diff.only_a else "",
        f"{len(diff.only_b)} only in B" if diff.only_b else "",
        f"{' and '.join(still)} all equal" if still else "",
    ]
    text = ",  ".join(part for part in parts if part)
    page.text((_MARGIN, _MARGIN + 28), page.fitted(text, room, 12), size=12, ink=_FAINT)
    page.line(_MARGIN, _MARGIN + _HEAD - 8, room)


def _draw_table(
    page: _Page, table: _Table, left: int, top: int, peak: float, longest: float
) -> None:
    group = table.component
    page.text((left, top + 6), group.component.replace("_", " "), size=14)
    page.text((left, top + 24), _summary(group), size=10, ink=_FAINT)
    right = left + _WIDTHS["name"] + _WIDTHS["bar"]
    page.text((left + _WIDTHS["name"], top + _COLUMN - 6), "whole block", size=10, ink=_FAINT)
    for i, kind in enumerate(table.kinds):
        at = right + (i + 0.5) * _WIDTHS["cell"], top + _COLUMN - 6
        page.text(at, _title(kind, table.kinds), size=10, ink=_FAINT, anchor="mm")
    y = top + _COLUMN + 16
    for row in table.rows:
        _draw_row(page, table, row, left, y, peak, longest)
        y += _ROW


def _title(kind: str, kinds: Sequence[str]) -> str:
    if kind == "attention" and "cross-attention" in kinds:
        return "self\nattention"
    return _TITLES.get(kind, kind)


def _summary(group: Group) -> str:
    return f"{group.moved} of {group.tensors} tensors moved, {_percent(group.distance)}"


def _draw_row(
    page: _Page, table: _Table, row: Group, left: int, y: int, peak: float, longest: float
) -> None:
    middle = y + _ROW / 2
    name = page.fitted(row.block or "", _WIDTHS["name"] - 10)
    page.text((left, middle), name, ink=_INK if row.moved else _FAINT)
    start, room = left + _WIDTHS["name"], _WIDTHS["bar"] - 56
    if row.moved:
        share = _heat(row.distance) / longest if longest else 0.0
        page.box(
            start, y + 4, max(1.5, share * room), _ROW - 8, _color(row.distance, peak), round_=2
        )
        page.text((start + max(1.5, share * room) + 5, middle), _percent(row.distance), size=10)
    for i, kind in enumerate(table.kinds):
        found = row.layers.get(kind)
        if found is not None:
            x = left + _WIDTHS["name"] + _WIDTHS["bar"] + i * _WIDTHS["cell"]
            _draw_cell(page, found, x, y, peak)


def _draw_cell(page: _Page, found: Distance, x: float, y: float, peak: float) -> None:
    color = _EQUAL if found.same else _color(found, peak)
    page.box(x + 1, y + 1, _WIDTHS["cell"] - 2, _ROW - 2, color)
    light = sum(color) / 3
    ink = _FAINT if found.same else _INK if light > 150 else _PAPER
    text = "=" if found.same else _percent(found)
    page.text((x + _WIDTHS["cell"] / 2, y + _ROW / 2), text, size=10, ink=ink, anchor="mm")


def _draw_legend(page: _Page, peak: float, meaning: str = _MEANING) -> None:
    y, width = page.height - _MARGIN - 24, 300
    page.line(_MARGIN, y - 14, page.width - 2 * _MARGIN)
    steps = 100
    for i in range(steps):
        color = _ramp((i + 0.5) / steps)
        page.box(_MARGIN + i * width / steps, y, width / steps + 0.5, 10, color, round_=0)
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        page.text(
            (_MARGIN + share * width, y + 19),
            _short(peak * share * share),
            size=10,
            ink=_FAINT,
            anchor="lm" if share == 0 else "rm" if share == 1 else "mm",
        )
    x = _MARGIN + width + 24
    page.text((x, y + 5), meaning, size=10, ink=_FAINT)
    page.box(x, y + 13, 22, 12, _EQUAL)
    page.text((x + 11, y + 19), "=", size=10, ink=_FAINT, anchor="mm")
    page.text((x + 28, y + 19), "equal bit for bit", size=10, ink=_FAINT)


def _heat(found: Distance) -> float:
    """Return the relative norm, 0 if there is none to draw."""
    relative = found.relative
    return relative if relative is not None and isfinite(relative) else 0.0


def _color(found: Distance, peak: float) -> Color:
    """Return the color of a change; what cannot be measured or came from zero is the hottest."""
    if found.relative is None or not isfinite(found.relative):
        return _HEAT[-1]
    return _ramp(sqrt(_heat(found) / peak) if peak else 0.0)


def _ramp(share: float) -> Color:
    """Return a color between the nine, 0..1."""
    place = min(max(share, 0.0), 1.0) * (len(_HEAT) - 1)
    low = min(int(place), len(_HEAT) - 2)
    part = place - low
    red, green, blue = (
        round(a + (b - a) * part) for a, b in zip(_HEAT[low], _HEAT[low + 1], strict=True)
    )
    return red, green, blue


def _percent(found: Distance) -> str:
    relative = found.relative
    if relative is None:
        return "?"
    return _short(relative) if isfinite(relative) else "new"


def _short(value: float) -> str:
    """Return a share in at most six characters."""
    if value >= 10:
        return f"x {value:.3g}"
    percent = 100 * value
    if percent == 0:
        return "0 %"
    if percent < 0.001:
        return "<.001 %"
    return f"{percent:.2g} %" if percent < 10 else f"{percent:.0f} %"
