"""Where the dots, the line and the scales of a loss curve go; the page and the picture draw the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite, log10
from typing import Final, TypeAlias

Points: TypeAlias = Sequence[tuple[int, float]]
Place: TypeAlias = tuple[float, float]

_KEEP: Final = 0.95  # of the running average
_MOST: Final = 600  # dots; more than there are pixels show nothing
_USUAL: Final = 0.98  # share of the values that must be in the frame
_NICE: Final = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Plot:
    """A curve in a frame that goes from 0 to 1 both ways, (0, 0) at its lower left.

    Attributes:
        dots: measured values, at most one for each of 600 parts of the steps.
        line: their running average there.
        rows: values of the scale at the left, as text, and how high each is.
        columns: steps of the scale below, as text, and how far right each is.
    """

    dots: tuple[Place, ...]
    line: tuple[Place, ...]
    rows: tuple[tuple[str, float], ...]
    columns: tuple[tuple[str, float], ...]


def plot(points: Points, smooth: Sequence[float] | None = None) -> Plot:
    """Lay a curve out.

    Args:
        points: step and value, in order of the steps; at least one, all of them finite.
        smooth: the running average at each of them; None: over about 20 values.
    """
    average = smoothed([value for _, value in points]) if smooth is None else smooth
    first, last = points[0][0], max(points[-1][0], points[0][0] + 1)
    shown = _thinned([step for step, _ in points], first, last)
    low, high = _range([points[i][1] for i in shown])

    def place(step: float, value: float) -> Place:
        up = (min(max(value, low), high) - low) / (high - low)
        return (step - first) / (last - first), up

    return Plot(
        tuple(place(*points[i]) for i in shown),
        tuple(place(points[i][0], average[i]) for i in shown),
        tuple((f"{v:.4g}", place(first, v)[1]) for v in _ticks(low, high, 5)),
        tuple((f"{v:,.0f}", place(v, low)[0]) for v in _ticks(first, last, 7) if v == int(v)),
    )


def smoothed(values: Sequence[float]) -> list[float]:
    """Return the running average at each value, without a pull to zero at the beginning."""
    total = weight = 0.0
    found = []
    for value in values:
        total, weight = _KEEP * total + (1 - _KEEP) * value, _KEEP * weight + 1 - _KEEP
        found.append(total / weight)
    return found


def finite(points: Points) -> list[tuple[int, float]]:
    """Return the points that are numbers."""
    return [(step, value) for step, value in points if isfinite(value)]


def _thinned(steps: Sequence[int], first: int, last: int) -> list[int]:
    """Return the index of the first point in each part of the steps: samples of a long log lie unevenly."""
    found = dict[int, int]()
    for i, step in enumerate(steps):
        found.setdefault((step - first) * _MOST // (last - first), i)
    return list(found.values())


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Return the range that shows nearly all values: one wild step must not flatten the rest."""
    ordered = sorted(values)
    low, high = ordered[0], ordered[min(len(ordered) - 1, int(len(ordered) * _USUAL))]
    return (low, high) if high > low else (low - 0.5 * abs(low) - 1e-3, low + 0.5 * abs(low) + 1e-3)


def _ticks(low: float, high: float, most: int) -> list[float]:
    """Return at most ``most`` round numbers between two."""
    rough = (high - low) / most
    power = 10.0 ** floor(log10(rough))
    step = next(power * nice for nice in _NICE if power * nice >= rough * (1 - 1e-9))
    return [step * n for n in range(ceil(low / step), floor(high / step) + 1)]
