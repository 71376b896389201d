"""``report.html``: the loss curve, the sheet and the settings of a run in one file that needs no network."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from memcard.core.atomic import replacing
from memcard.jobs._loss_curve import plot

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 1000, 320, 56, 28, 12, 34
_DIGEST: Final = 64  # hex digits
_STYLE: Final = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1000px;margin:2rem auto;padding:0 1rem;color:#1c1c20;background:#fff}
h1{font-size:1.5rem;margin-bottom:.2rem}h2{font-size:1.1rem;margin-top:2rem}
p.sub{color:#6a6a72;margin-top:0}img,svg{max-width:100%;height:auto}
table{border-collapse:collapse}td,th{padding:.15rem 1.2rem .15rem 0;vertical-align:top;text-align:left}
th{font-weight:normal;border-bottom:1px solid #8884}td{overflow-wrap:anywhere}
th,.facts td:first-child{color:#6a6a72}.facts td:first-child{white-space:nowrap}code{background:#f3f3f5;padding:.1rem .3rem;border-radius:3px}
@media (prefers-color-scheme:dark){body{background:#17171b;color:#e8e8ec}code{background:#2a2a30}
p.sub,th,.facts td:first-child{color:#a0a0a8}svg text{fill:#a0a0a8}}
"""


def report(
    path: Path,
    *,
    title: str,
    subtitle: str,
    points: Sequence[tuple[int, float]],
    facts: Mapping[str, Any],
    smooth: Sequence[float] | None = None,
    measured: str = "loss",
    sheet: Path | None = None,
    tables: Sequence[tuple[str, Sequence[str], Sequence[Sequence[str]]]] = (),
    notes: Sequence[str] = (),
) -> Path:
    """Write the page.

    Args:
        path: the file.
        title: of the run.
        subtitle: one line beneath it.
        points: (step, loss), in order.
        facts: the table, in this order; what is empty is left out.
        smooth: the running average at each point; None: it is worked out.
        measured: what the points are.
        sheet: a PNG.
        tables: title, header and rows of each; one without rows is left out.
        notes: shown as a list.
    """
    parts = [f"<h1>{html.escape(title)}</h1><p class=sub>{html.escape(subtitle)}</p>"]
    if points:
        what = html.escape(measured[:1].upper() + measured[1:])
        parts.append(f"<h2>{what}</h2>{curve(points, smooth)}")
    if sheet is not None:
        data = base64.b64encode(sheet.read_bytes()).decode()
        alt = "one row of pictures per sheet, one column per prompt"
        parts.append(f"<h2>Pictures</h2><img alt='{alt}' src='data:image/png;base64,{data}'>")
    parts += [_table(title, rows, header) for title, header, rows in tables if rows]
    rows = "".join(
        f"<tr><td>{html.escape(str(key))}</td><td>{html.escape(_said(value))}</td></tr>"
        for key, value in facts.items()
        if value not in (None, "", [], {})
    )
    parts.append(f"<h2>Settings</h2><table class=facts>{rows}</table>")
    if notes:
        items = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
        parts.append(f"<h2>Notes</h2><ul>{items}</ul>")
    page = (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width,initial-scale=1'>"
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>{''.join(parts)}</html>\n"
    )
    with replacing(path) as file:
        file.write(page.encode())
    return path


def curve(points: Sequence[tuple[int, float]], smooth: Sequence[float] | None = None) -> str:
    """Return an SVG: each loss as a dot, their running average as a line."""
    found = plot(points, smooth)
    wide, high = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def x(share: float) -> str:
        return f"{_LEFT + wide * share:.1f}"

    def y(share: float) -> str:
        return f"{_TOP + high * (1.0 - share):.1f}"

    dots = "".join(f"<circle cx='{x(a)}' cy='{y(b)}' r='1.4'/>" for a, b in found.dots)
    line = " ".join(f"{x(a)},{y(b)}" for a, b in found.line)
    grid = "".join(
        f"<line x1='{_LEFT}' x2='{_WIDTH - _RIGHT}' y1='{y(b)}' y2='{y(b)}' stroke='#8884'/>"
        f"<text x='{_LEFT - 8}' y='{y(b)}' dy='.35em' text-anchor='end'>{text}</text>"
        for text, b in found.rows
    )
    ticks = "".join(
        f"<text x='{x(a)}' y='{_HEIGHT - 10}' text-anchor='middle'>{text}</text>"
        for text, a in found.columns
    )
    return (
        f"<svg viewBox='0 0 {_WIDTH} {_HEIGHT}' width='{_WIDTH}' role='img' "
        "aria-label='curve by step' font-family='system-ui,sans-serif' font-size='12' fill='#6a6a72'>"
        f"{grid}{ticks}<g fill='#8fb4e8' opacity='.55'>{dots}</g>"
        f"<polyline points='{line}' fill='none' stroke='#2563c9' stroke-width='2'/></svg>"
    )


def _table(title: str, rows: Sequence[Sequence[str]], header: Sequence[str]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return f"<h2>{html.escape(title)}</h2><table><tr>{head}</tr>{body}</table>"


def _said(value: Any) -> str:
    """Return a setting as people write it: no braces, no quotes, of a digest the first digits."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_said(one)}" for key, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_said, value))
    text = {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
    return text[:12] if len(text) == _DIGEST and text.isalnum() else text
