"""The curve of a run as a PNG: each measured value a dot, their running average a line."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from memcard.core.atomic import replacing
from memcard.errors import UsageError
from memcard.jobs._heat_map import _FAINT, _KEPT, _LINE, _MARGIN, _SCALE, _Page
from memcard.jobs._loss_curve import Place, Plot, finite, plot
from memcard.jobs._runs_page import refuse_taken

if TYPE_CHECKING:
    from PIL.Image import Image

    from memcard.jobs.runs import RunShown

_WIDTH, _HEIGHT = 900, 420  # points
_LEFT, _TOP, _BOTTOM = 48, 68, 26  # of the frame, inside the margin
_DOT, _STROKE = (188, 211, 242), (37, 99, 201)
_THICK: Final = 2


def picture(shown: RunShown, path: Path, *, overwrite: bool = False) -> Path:
    """Write the picture.

    Raises:
        UsageError: the file is there already, is no .png, or there is no measured value to draw.
    """
    if path.suffix.lower() != ".png":
        raise UsageError(f"{path}: the picture is a PNG. Name it so.")
    refuse_taken(path, overwrite=overwrite)
    image = draw(shown)
    with replacing(path) as file:
        image.save(file, "PNG", optimize=True)
    return path


def draw(shown: RunShown) -> Image:
    """Draw the curve of a run, 1800 by 840 pixels.

    Raises:
        UsageError: there is no measured value to draw.
    """
    run = shown.report
    if not (points := finite(run.curve)):
        raise UsageError(
            f"{run.folder}: nothing that could be drawn was logged yet. Let it train, or name another --metric."
        )
    page = _Page(_WIDTH, _HEIGHT)
    room = _WIDTH - 2 * _MARGIN
    page.text((_MARGIN, _MARGIN + 4), page.fitted(run.name, room, 19), size=19)
    of = f" of {run.steps:,}" if run.steps else ""
    text = f"{run.metric} {run.value:.4g},  {run.state} after {run.step:,}{of} steps,  {_today()}"
    page.text((_MARGIN, _MARGIN + 28), page.fitted(text, room, 12), size=12, ink=_FAINT)
    _draw_plot(page, plot(points))
    return page.image.reduce(_SCALE // _KEPT)


def _draw_plot(page: _Page, found: Plot) -> None:
    from PIL import ImageDraw

    left, right = _MARGIN + _LEFT, page.width - _MARGIN
    top, bottom = _MARGIN + _TOP, page.height - _MARGIN - _BOTTOM

    def at(place: Place) -> tuple[float, float]:
        return left + place[0] * (right - left), bottom - place[1] * (bottom - top)

    pen = ImageDraw.Draw(page.image)
    for text, up in found.rows:
        y = at((0.0, up))[1]
        page.line(left, y, right - left)
        page.text((left - 8, y), text, size=10, ink=_FAINT, anchor="rm")
    for text, share in found.columns:
        page.text((at((share, 0.0))[0], bottom + 16), text, size=10, ink=_FAINT, anchor="mm")
    for x, y in map(at, found.dots):
        page.box(x - 1.2, y - 1.2, 2.4, 2.4, _DOT, round_=1)
    line = [(x * _SCALE, y * _SCALE) for x, y in map(at, found.line)]
    if len(line) > 1:
        pen.line(line, fill=_STROKE, width=_THICK * _SCALE, joint="curve")
    pen.line([(left * _SCALE, bottom * _SCALE), (right * _SCALE, bottom * _SCALE)], fill=_LINE)


def _today() -> str:
    return time.strftime("%Y-%m-%d")
