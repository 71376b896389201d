"""A merge report as one picture: rows are blocks, columns are parents, color how far the result is from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from memcard.jobs._heat_map import (
    _FAINT,
    _GAP,
    _MARGIN,
    _ROW,
    _WIDTHS,
    _draw_cell,
    _draw_legend,
    _heat,
    _Page,
)
from memcard.jobs._report_rows import letter, short

if TYPE_CHECKING:
    from PIL.Image import Image

    from memcard.jobs._report_rows import MergeReport, Row

_TITLE: Final = 36
_LINE: Final = 16
_TOP: Final = 40  # of a table: its title and the letters of the parents
_FOOT: Final = 62
_LEAST: Final = 640


@dataclass(frozen=True, slots=True)
class _Table:
    component: Row
    blocks: tuple[Row, ...]

    @property
    def height(self) -> int:
        return _TOP + (len(self.blocks) + 1) * _ROW + _GAP


def picture(report: MergeReport) -> Image:
    """Draw the rows of a report; components side by side, the first to the left."""
    tables = _tables(report.shown)
    # What did not move is a line or two; it goes below the first table, the rest beside it.
    still = [table for table in tables[1:] if not table.blocks]
    others = [table for table in tables[1:] if table.blocks]
    columns = [column for column in ([*tables[:1], *still], others) if column]
    width = _WIDTHS["name"] + len(report.parents) * _WIDTHS["cell"]
    head = _TITLE + len(report.parents) * _LINE + _GAP
    tall = max((sum(table.height for table in column) for column in columns), default=0)
    wide = len(columns) * (width + _GAP) - _GAP
    page = _Page(max(wide, _LEAST) + 2 * _MARGIN, _MARGIN + head + tall + _FOOT)
    _draw_head(page, report)
    peak = max((_heat(d) for row in report.shown for d in row.distances if d), default=0.0)
    for i, column in enumerate(columns):
        top = _MARGIN + head
        for table in column:
            _draw_table(page, table, _MARGIN + i * (width + _GAP), top, peak)
            top += table.height
    _draw_legend(page, peak, "||result - parent|| / ||parent||")
    return page.image.reduce(2)


def _tables(rows: Sequence[Row]) -> list[_Table]:
    components = [row for row in rows if row.block is None]
    return [
        _Table(
            head, tuple(r for r in rows if r.block is not None and r.component == head.component)
        )
        for head in components
    ]


def _draw_head(page: _Page, report: MergeReport) -> None:
    room = page.width - 2 * _MARGIN
    title = f"{short(report.out)} against what it is made of"
    page.text((_MARGIN, _MARGIN + 4), page.fitted(title, room, 19), size=19)
    for i, parent in enumerate(report.parents):
        text = page.fitted(f"{letter(i)}   {short(parent)}", room, 12)
        page.text((_MARGIN, _MARGIN + _TITLE + i * _LINE), text, size=12, ink=_FAINT)
    page.line(_MARGIN, _MARGIN + _TITLE + len(report.parents) * _LINE, room)


def _draw_table(page: _Page, table: _Table, left: int, top: int, peak: float) -> None:
    page.text((left, top + 6), table.component.component.replace("_", " "), size=14)
    for i in range(len(table.component.distances)):
        at = left + _WIDTHS["name"] + (i + 0.5) * _WIDTHS["cell"], top + _TOP - 12
        page.text(at, letter(i), size=10, ink=_FAINT, anchor="mm")
    for n, row in enumerate((table.component, *table.blocks)):
        y = top + _TOP + n * _ROW
        page.text((left, y + _ROW / 2), page.fitted(row.block or "all of it", _WIDTHS["name"] - 10))
        for i, found in enumerate(row.distances):
            if found is not None:
                x = left + _WIDTHS["name"] + i * _WIDTHS["cell"]
                _draw_cell(page, found, x, y, peak)
