"""``report.html``: the loss curve, the sheet and the settings of a run in one file that needs no network."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from memcard.core.atomic import replacing

_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 860, 300, 56, 12, 34
_MOST: Final = 600  # points of a curve; more than there are pixels show nothing
_STYLE: Final = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1000px;margin:2rem auto;padding:0 1rem;color:#1c1c20;background:#fff}
h1{font-size:1.5rem;margin-bottom:.2rem}h2{font-size:1.1rem;margin-top:2rem}
p.sub{color:#6a6a72;margin-top:0}img,svg{max-width:100%;height:auto}
table{border-collapse:collapse}td{padding:.15rem 1.2rem .15rem 0;vertical-align:top}
td:first-child{color:#6a6a72}code{background:#f3f3f5;padding:.1rem .3rem;border-radius:3px}
@media (prefers-color-scheme:dark){body{background:#17171b;color:#e8e8ec}code{background:#2a2a30}
p.sub,td:first-child{color:#a0a0a8}svg text{fill:#a0a0a8}}
"""


def report(
    path: Path,
    *,
    title: str,
    subtitle: str,
    points: Sequence[tuple[int, float]],
    smooth: Sequence[float],
    facts: Mapping[str, Any],
    sheet: Path | None = None,
    notes: Sequence[str] = (),
) -> Path:
    """Write the page.

    Args:
        path: the file.
        title: of the run.
        subtitle: one line beneath it.
        points: (step, loss), in order.
        smooth: the running average at each of them.
        facts: the table, in this order; what is empty is left out.
        sheet: a PNG.
        notes: shown as a list.
    """
    parts = [f"<h1>{html.escape(title)}</h1><p class=sub>{html.escape(subtitle)}</p>"]
    if points:
        parts.append(f"<h2>Loss</h2>{curve(points, smooth)}")
    if sheet is not None:
        data = base64.b64encode(sheet.read_bytes()).decode()
        alt = "one row of pictures per sheet, one column per prompt"
        parts.append(f"<h2>Pictures</h2><img alt='{alt}' src='data:image/png;base64,{data}'>")
    rows = "".join(
        f"<tr><td>{html.escape(str(key))}</td><td>{html.escape(str(value))}</td></tr>"
        for key, value in facts.items()
        if value not in (None, "", [], {})
    )
    parts.append(f"<h2>Settings</h2><table>{rows}</table>")
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


def curve(points: Sequence[tuple[int, float]], smooth: Sequence[float]) -> str:
    """Return an SVG: each loss as a dot, their running average as a line."""
    every = max(1, len(points) // _MOST)
    shown = [*range(0, len(points), every)]
    steps = [points[i][0] for i in shown]
    low, high = _range([points[i][1] for i in shown], smooth)
    first, last = steps[0], max(steps[-1], steps[0] + 1)

    def x(step: int) -> float:
        return float(_LEFT + (_WIDTH - _LEFT - 10) * (step - first) / (last - first))

    def y(loss: float) -> float:
        part = (min(max(loss, low), high) - low) / (high - low)
        return float(_TOP + (_HEIGHT - _TOP - _BOTTOM) * (1.0 - part))

    dots = "".join(
        f"<circle cx='{x(points[i][0]):.1f}' cy='{y(points[i][1]):.1f}' r='1.4'/>" for i in shown
    )
    line = " ".join(f"{x(points[i][0]):.1f},{y(smooth[i]):.1f}" for i in shown)
    grid = "".join(
        f"<line x1='{_LEFT}' x2='{_WIDTH - 10}' y1='{y(v):.1f}' y2='{y(v):.1f}' stroke='#8884'/>"
        f"<text x='{_LEFT - 8}' y='{y(v) + 4:.1f}' text-anchor='end'>{v:.3g}</text>"
        for v in (low + (high - low) * i / 4 for i in range(5))
    )
    ticks = "".join(
        f"<text x='{x(s):.1f}' y='{_HEIGHT - 10}' text-anchor='middle'>{s}</text>"
        for s in dict.fromkeys(round(first + (last - first) * i / 5) for i in range(6))
    )
    return (
        f"<svg viewBox='0 0 {_WIDTH} {_HEIGHT}' width='{_WIDTH}' role='img' "
        "aria-label='loss by step' font-family='system-ui,sans-serif' font-size='12' fill='#6a6a72'>"
        f"{grid}{ticks}<g fill='#8fb4e8' opacity='.55'>{dots}</g>"
        f"<polyline points='{line}' fill='none' stroke='#2563c9' stroke-width='2'/></svg>"
    )


def _range(losses: Sequence[float], smooth: Sequence[float]) -> tuple[float, float]:
    """Return the range that shows nearly all losses: one wild step must not flatten the rest."""
    ordered = sorted(losses)
    cut = ordered[min(len(ordered) - 1, int(len(ordered) * 0.98))]
    low, high = min(ordered[0], *smooth), max(cut, *smooth)
    return (low, high) if high > low else (low - 0.5 * abs(low) - 1e-3, low + 0.5 * abs(low) + 1e-3)
