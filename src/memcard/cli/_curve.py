"""Curves in a terminal: in one line, and as a picture of several; from plain characters where it must be."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from math import isfinite

Points = Sequence[tuple[int, float]]

_BLOCKS, _PLAIN = "▁▂▃▄▅▆▇█", "_.-=+*#@"
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of a Braille character
_BLANK = 0x2800
_WILD = 0.02  # share of the values at the upper end that may be wild
_FAR = 4.0  # times the range of the others: then they are


def knows_blocks() -> bool:
    """Whether stdout can show more than ASCII."""
    encoding = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "")
    return encoding.startswith("utf")


def spark(points: Points, width: int, *, plain: bool = False) -> str:
    """Return a curve in one line of at most ``width`` characters; a gap where there is no number."""
    values = _means(_tamed(points), width)
    low, high = _range([v for v in values if v is not None])
    marks, text = (_PLAIN if plain else _BLOCKS), ""
    for value in values:
        part = 0.0 if value is None or high <= low else (min(value, high) - low) / (high - low)
        text += " " if value is None else marks[min(7, int(8 * part))]
    return text


def chart(points: Points, width: int, height: int, *, plain: bool = False) -> list[str]:
    """Return a curve as lines with a scale at the left and below; [] if there is nothing to draw.

    Args:
        points: step and value, in order.
        width: of the whole, in characters.
        height: lines of the curve itself.
        plain: ASCII only.
    """
    finite = _tamed([(step, value) for step, value in points if isfinite(value)])
    if not finite:
        return []
    low, high = _range([value for _, value in finite])
    labels = [f"{high - (high - low) * i / (height - 1):.4g}" for i in range(height)]
    margin = max(map(len, labels))
    inner = max(8, width - margin - 2)
    rows = _plotted(finite, inner, height, (low, high), plain=plain)
    edge, corner, line = ("|", "+", "-") if plain else ("│", "└", "─")
    shown = {0, height // 2, height - 1}
    lines = [
        f"{labels[i] if i in shown else '':>{margin}} {edge}{row}".rstrip()
        for i, row in enumerate(rows)
    ]
    first, last = f"{finite[0][0]:,}", f"{finite[-1][0]:,}"
    scale = first + last.rjust(inner - len(first)) if finite[0][0] != finite[-1][0] else first
    return [*lines, f"{'':>{margin}} {corner}{line * inner}", f"{'':>{margin}}  {scale}"]


def _plotted(
    points: Points, width: int, height: int, span: tuple[float, float], *, plain: bool
) -> list[str]:
    across, down = (1, 1) if plain else (2, 4)
    columns, rows = width * across, height * down
    low, high = span
    cells = [[0] * width for _ in range(height)]
    before: int | None = None
    for x, value in enumerate(_joined(_means(points, columns, spread=True))):
        part = (min(value, high) - low) / (high - low)
        y = min(rows - 1, max(0, round((1 - part) * (rows - 1))))
        start = y if before is None else before + (before < y) - (before > y)
        for at in range(min(start, y), max(start, y) + 1):
            cells[at // down][x // across] |= _DOTS[at % down][x % across] if not plain else 1
        before = y
    if plain:
        return ["".join("*" if cell else " " for cell in row) for row in cells]
    return ["".join(chr(_BLANK + cell) if cell else " " for cell in row) for row in cells]


def _joined(values: Sequence[float | None]) -> list[float]:
    """Return the values with straight lines over the gaps, so that few points make a curve, too."""
    there = [(i, value) for i, value in enumerate(values) if value is not None]
    found: list[float] = []
    for (i, one), (k, two) in zip(there, there[1:] or there[:1], strict=False):
        found += [one + (two - one) * n / max(1, k - i) for n in range(k - i)]
    return [*found, there[-1][1]]


def _means(points: Points, width: int, *, spread: bool = False) -> list[float | None]:
    """Return the mean of the finite values in each of ``width`` parts of the steps.

    Args:
        points: in order.
        width: parts; fewer if there are fewer points, unless they are to be spread.
        spread: leave parts empty rather than have fewer.
    """
    if not points:
        return []
    count = width if spread else min(width, len(points))
    first, last = points[0][0], points[-1][0]
    sums, counts = [0.0] * count, [0] * count
    seen = [False] * count
    for step, value in points:
        at = 0 if last == first else min(count - 1, (step - first) * count // (last - first))
        seen[at] = True
        if isfinite(value):
            sums[at] += value
            counts[at] += 1
    found = [s / n if n else None for s, n in zip(sums, counts, strict=True)]
    if spread:
        return found
    for i in range(1, count):  # steps that are logged unevenly leave no holes
        found[i] = found[i - 1] if not seen[i] else found[i]
    return found


def _tamed(points: Points) -> Points:
    """Return the points with a few wild values cut off: one such step must not flatten the rest."""
    ordered = sorted(value for _, value in points if isfinite(value))
    if not ordered:
        return points
    low, high = ordered[0], ordered[len(ordered) - 1 - int(len(ordered) * _WILD)]
    most = high + _FAR * (high - low)
    if ordered[-1] <= most:
        return points
    return [(step, min(value, high)) for step, value in points]


def _range(values: Sequence[float]) -> tuple[float, float]:
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    if high > low:
        return low, high
    return low - 0.05 * abs(low) - 1e-9, low + 0.05 * abs(low) + 1e-9
