"""The page of a search: curves with their intervals, sheets, and what it comes to, in one file."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import replace
from io import BytesIO
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from memcard.core.atomic import replacing
from memcard.jobs._tune_cells import Cell, Cells

if TYPE_CHECKING:
    from memcard.jobs._tune_race import Margin
    from memcard.jobs._tune_result import Tuned
    from memcard.jobs._tune_search import Point, Search

_W, _H, _LEFT, _TOP, _BOTTOM = 420, 230, 54, 30, 40
_COLUMNS: Final = 8  # pictures in a row of a sheet
_STYLE: Final = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2rem auto;padding:0 1rem;color:#1c1c20;background:#fff}
h1{font-size:1.5rem;margin-bottom:.2rem}h2{font-size:1.1rem;margin-top:2.2rem}
p.sub,td.n{color:#6a6a72}img,svg{max-width:100%;height:auto}
.curves{display:flex;flex-wrap:wrap;gap:12px}
table{border-collapse:collapse}td,th{padding:.2rem 1.1rem .2rem 0;text-align:left;vertical-align:top}
code{background:#f3f3f5;padding:.1rem .3rem;border-radius:3px}.better{color:#0a7d38}.worse{color:#b3261e}
@media (prefers-color-scheme:dark){body{background:#17171b;color:#e8e8ec}code{background:#2a2a30}
p.sub,td.n{color:#a0a0a8}svg text{fill:#a0a0a8}}
"""
TITLES: Final[Mapping[str, str]] = {
    "adherence": "adherence (nats)",
    "recognition": "recognised by the model",
    "likelihood": "likelihood (nats)",
    "exposure": "exposure (1: no burn-in)",
    "clipping": "values that do not clip",
    "saturation": "saturation",
    "contrast": "contrast",
    "sharpness": "sharpness",
    "convergence": "convergence (dB)",
    "clip_score": "CLIP score",
}


def write_page(path: Path, tuned: Tuned, search: Search, sheets: Mapping[str, Path]) -> Path:
    """Write the page; it needs no other file and no network."""
    parts = [
        f"<h1>Settings for {html.escape(tuned.checkpoint)}</h1>",
        f"<p class=sub>{html.escape(tuned.command)}</p><p>{html.escape(tuned.verdict)}</p>",
        _settings(tuned),
        "<h2>Checked on prompts and seeds that chose nothing</h2>",
        _checked(tuned, search),
    ]
    for title, name, points in (
        ("Guidance", "cfg", search.cfg_points),
        (
            "Sampler and schedule, at half of the usual evaluations",
            "sampler",
            search.sampler_points,
        ),
        ("Steps", "steps", search.step_points),
    ):
        if points:
            body = _table(points) if name == "sampler" else _curves(points, name, tuned.found[name])
            parts.append(f"<h2>{title}</h2>{body}")
        if name in sheets:
            parts.append(_embedded(sheets[name], f"sheet: {title}"))
    parts.append(
        f"<h2>Held out: the family's settings and the found ones</h2>{_embedded(sheets['held_out'], 'sheet')}"
    )
    if tuned.notes:
        items = "".join(f"<li>{html.escape(note)}</li>" for note in tuned.notes)
        parts.append(f"<h2>Notes</h2><ul>{items}</ul>")
    page = (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width,initial-scale=1'>"
        f"<title>memcard tune: {html.escape(tuned.checkpoint)}</title><style>{_STYLE}</style>"
        f"{''.join(parts)}</html>\n"
    )
    with replacing(path) as file:
        file.write(page.encode())
    return path


def _settings(tuned: Tuned) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(name)}<td>{html.escape(_text(tuned.usual[name]))}"
        f"<td><b>{html.escape(_text(value))}</b>"
        for name, value in tuned.found.items()
    )
    rows += (
        f"<tr><td>runs of the denoiser<td>{tuned.usual_evaluations}<td><b>{tuned.evaluations}</b>"
    )
    return f"<table><tr><th><th>family<th>found{rows}</table>"


def _checked(tuned: Tuned, search: Search) -> str:
    said = (
        f"{len(search.prompts.held_out)} prompts, {search.plan.held_out} pictures with each settings; "
        "means, and the 95 % interval of the paired difference."
    )
    rows = "".join(
        f"<tr><td>{html.escape(TITLES.get(name, name))}<td>{theirs.mean:.3f}<td>{ours.mean:.3f}"
        f"<td>{_interval(gain)}<td class='{gain.verdict if name in tuned.judging else 'n'}'>"
        f"{gain.verdict if name in tuned.judging else 'describes'}"
        for name, (ours, theirs, gain) in tuned.check.items()
    )
    head = "<tr><th>score<th>family<th>found<th>difference<th>"
    return f"<p class=sub>{said}</p><table>{head}{rows}</table>"


def _interval(found: Margin) -> str:
    return f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


def _table(points: Sequence[Point]) -> str:
    ordered = sorted(points, key=lambda p: -p.scores["convergence"].mean)
    rows = "".join(
        f"<tr><td>{p.value['sampler']}<td>{p.value['schedule']}<td>{p.value['steps']}"
        f"<td>{p.scores['convergence'].mean:.1f} dB<td class=n>{p.scores['convergence'].n}"
        for p in ordered
    )
    head = "<tr><th>sampler<th>schedule<th>steps<th>to the converged picture<th>pictures"
    return f"<table>{head}{rows}</table>"


def _curves(points: Sequence[Point], name: str, chosen: Any) -> str:
    drawn = "".join(
        curve(
            [(float(p.value), p.scores[score]) for p in points], TITLES[score], name, float(chosen)
        )
        for score in points[0].scores
        if score in TITLES and score != "recognition"
    )
    return f"<div class=curves>{drawn}</div>"


def curve(points: Sequence[tuple[float, Margin]], title: str, axis: str, chosen: float) -> str:
    """Return an SVG: means joined by a line, their intervals as bars, and what was chosen as a rule."""
    first, last = points[0][0], max(points[-1][0], points[0][0] + 1e-9)
    ends = [e for _, m in points for e in (m.mean, m.low, m.high) if isfinite(e)]
    low, high = min(ends), max(ends)
    high = high if high > low else low + 1e-9

    def x(value: float) -> float:
        return _LEFT + (_W - _LEFT - 14) * (value - first) / (last - first)

    def y(value: float) -> float:
        part = (min(max(value, low), high) - low) / (high - low)
        return _TOP + (_H - _TOP - _BOTTOM) * (1 - part)

    line = " ".join(f"{x(v):.1f},{y(m.mean):.1f}" for v, m in points)
    bars = "".join(
        f"<line x1='{x(v):.1f}' x2='{x(v):.1f}' y1='{y(m.low):.1f}' y2='{y(m.high):.1f}' "
        f"stroke='#2563c9' opacity='.45'/><circle cx='{x(v):.1f}' cy='{y(m.mean):.1f}' r='3' fill='#2563c9'/>"
        for v, m in points
    )
    ticks = "".join(
        f"<text x='{x(v):.1f}' y='{_H - 22}' text-anchor='middle'>{v:g}</text>"
        for n, (v, _) in enumerate(points)
        if n == 0 or x(v) - x(points[n - 1][0]) > 24
    )
    scale = "".join(
        f"<text x='{_LEFT - 6}' y='{y(v) + 4:.1f}' text-anchor='end'>{v:.3g}</text>"
        f"<line x1='{_LEFT}' x2='{_W - 14}' y1='{y(v):.1f}' y2='{y(v):.1f}' stroke='#8883'/>"
        for v in (low, (low + high) / 2, high)
    )
    rule = (
        f"<line x1='{x(chosen):.1f}' x2='{x(chosen):.1f}' y1='{_TOP}' y2='{_H - _BOTTOM}' "
        "stroke='#0a7d38' stroke-dasharray='4 3'/>"
    )
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {_W} {_H}' width='{_W}' role='img' aria-label='{html.escape(title)} by {axis}' "
        "font-family='system-ui,sans-serif' font-size='12' fill='#6a6a72'>"
        f"<text x='{_LEFT}' y='18' font-weight='600'>{html.escape(title)}</text>{scale}{rule}"
        f"<polyline points='{line}' fill='none' stroke='#2563c9' stroke-width='2'/>{bars}{ticks}"
        f"<text x='{(_LEFT + _W) / 2:.0f}' y='{_H - 6}' text-anchor='middle'>{axis}</text></svg>"
    )


def draw_sheets(folder: Path, search: Search, found: Cell) -> dict[str, Path]:
    """Write a sheet for each phase, of pictures that were painted for it; return the files."""
    usual = search.usual
    made = {
        "cfg": [
            (f"CFG {p.value:g}", _row(search, replace(usual, cfg=p.value)))
            for p in search.cfg_points
        ],
        "steps": [
            (f"{p.value} steps", _row(search, replace(found, steps=p.value)))
            for p in search.step_points
        ],
        "held_out": [
            (name, _row(search, cell, held_out=True))
            for name, cell in (("family", usual), ("found", found))
        ],
    }
    return {
        name: _sheet(folder / f"{name}.png", rows, search.cells)
        for name, rows in made.items()
        if rows
    }


def _row(search: Search, settings: Cell, *, held_out: bool = False) -> list[Cell]:
    return [search.at(settings, n, held_out=held_out) for n in range(_COLUMNS)]


def _sheet(path: Path, rows: Sequence[tuple[str, Sequence[Cell]]], cells: Cells) -> Path:
    """Draw rows of cells; where one was not painted, because its row had left the race, a blank."""
    from PIL import Image

    from memcard.generation.grid import Row, sheet

    columns = [
        n for n in range(_COLUMNS) if any(cells.picture(row[n]).is_file() for _, row in rows)
    ]
    blank = Image.new("RGB", (64, 64), (240, 240, 242))

    def opened(cell: Cell) -> Image.Image:
        place = cells.picture(cell)
        return Image.open(place).convert("RGB") if place.is_file() else blank

    heads = [rows[0][1][n].prompt for n in columns]
    drawn = [Row(label, "", [opened(row[n]) for n in columns]) for label, row in rows]
    with replacing(path) as file:
        sheet(drawn, heads, cell=112).save(file, "PNG", optimize=True)
    return path


def _embedded(path: Path, alt: str) -> str:
    from PIL import Image

    packed = BytesIO()
    with Image.open(path) as picture:
        picture.convert("RGB").save(packed, "WEBP", quality=88)
    data = base64.b64encode(packed.getvalue()).decode()
    return f"<img alt='{html.escape(alt)}' src='data:image/webp;base64,{data}'>"


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
