"""Find the numbers of a ``Path`` from a few values of both ends.

Where the gradient was zero all moments shrank by the same factor and all weights too, so these values stand out
among others as the most frequent ratio. What moves the others is fitted by least squares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any, TypeAlias

import numpy as np

from memcard.maths.training_path import STEPS_MOST, Array, Path, decayed, idle, normalised

_ULP = 2.0**-24  # what a float32 below one is exact to
_TINY = 2.0**-100  # smaller values are rounded too coarsely to tell ratios
_ENOUGH = 32  # values that stand out
_BIN = 2.0**-17  # of ratios
_TRIED = 1024  # values a decay is tried on
_AROUND = 6.0  # ulp: what rounding at every step may change
_SHARE = (
    0.1  # of a tensor's values: so many must have decayed alike to show that they were not trained
)

Floats: TypeAlias = "np.ndarray[Any, np.dtype[np.float64]]"


@dataclass(frozen=True, slots=True)
class Ends:
    """Values of one weight at both ends.

    Attributes:
        old, new: the weight.
        before, after: first and second moment at each end; None: not there.
    """

    old: Array
    new: Array
    before: tuple[Array, Array] | None = None
    after: tuple[Array, Array] | None = None


def fit(ends: Sequence[Ends]) -> Path:
    """Return the path that explains most; of things that do not stand out it says nothing.

    Args:
        ends: some tensors; either all have moments at an end or none.
    """
    with np.errstate(all="ignore"):
        path = _with_moments(ends)
        path = _with_decay(ends, path)
        return _with_moves(ends, path)


def _joined(parts: Sequence[Any]) -> Floats:
    return np.concatenate([np.asarray(p, np.float64).ravel() for p in parts] or [np.zeros(0)])


def _with_moments(ends: Sequence[Ends]) -> Path:
    """Find by what moments shrink: where nothing stands out, by what they shrank at most."""
    both = [(e.before, e.after) for e in ends if e.before is not None and e.after is not None]
    m0, m1 = (_joined([pair[i][0] for pair in both]) for i in (0, 1))
    v0, v1 = (_joined([pair[i][1] for pair in both]) for i in (0, 1))
    ratio = v1 / v0
    fine = (v0 > _TINY) & (v1 > 0) & (ratio <= 1)
    second = _mode(ratio[fine], _BIN)
    if second is not None:
        there = fine & (np.abs(ratio - second) <= 2 * _BIN) & (np.abs(m0) > _TINY)
        first = float(np.median(m1[there] / m0[there])) if there.sum() >= _ENOUGH else 1.0
    elif fine.sum() >= _ENOUGH:
        # A gradient only adds to the second moment, and to the first one in either direction.
        second = float(ratio[fine].min())
        first = min(1.0, max(0.0, float((m0[fine] * m1[fine]).sum() / np.square(m0[fine]).sum())))
    else:
        return Path()
    return replace(Path(), first=_single(first, 1.0), second=_single(second, 1.0))


def _single(value: float, otherwise: float = 0.0) -> float:
    """Return the nearest float32; what none is near to is not said."""
    found = float(np.float32(value))
    return found if isfinite(found) else otherwise


def _mode(values: Floats, width: float, least: int = _ENOUGH) -> float | None:
    """Return the middle of the values that stand together; None if nowhere there are enough."""
    values = values[np.isfinite(values)]
    if values.size < least:
        return None
    places, counts = np.unique(np.rint(values / width), return_counts=True)
    best = int(np.argmax(counts))
    near = values[np.abs(values - places[best] * width) <= width]
    return float(np.median(near)) if near.size >= least else None


def _with_decay(ends: Sequence[Ends], path: Path) -> Path:
    """Find factor and number of steps: the pair that gives the most values bit for bit."""
    best: tuple[float, Array, Array] | None = None
    for e in ends:
        old, new = _still(e)
        fine = np.isfinite(old) & np.isfinite(new) & (np.abs(old) > _TINY)
        old, new = old[fine], new[fine]
        lost = (1 - new.astype(np.float64) / old) / _ULP
        most = _mode(lost, _AROUND, max(_ENOUGH, int(_SHARE * old.size)))
        if most is None or round(most) < 1:
            continue
        alike = np.flatnonzero(np.abs(lost - most) <= 2 * _AROUND)
        if best is None or alike.size > best[1].size:
            best = most, old[alike], new[alike]
    if best is None:
        return path
    most, old, new = best
    each = -(-old.size // _TRIED)
    return _decaying(path, old[::each], new[::each], most)


def _decaying(path: Path, old: Array, new: Array, most: float) -> Path:
    best, found = 0.0, path
    for steps in range(1, STEPS_MOST + 1):
        whole = round(most / steps)
        for each in range(max(1, whole - 1), whole + 2):
            one = replace(path, decay=1 - each * _ULP, steps=steps)
            right = float((decayed(old, one) == new).mean())
            if right > best:
                best, found = right, one
    return found


def _still(ends: Ends) -> tuple[Array, Array]:
    """Return the values that nothing moved, as far as the moments tell."""
    still = np.ones(ends.old.shape, bool)
    for pair in (ends.before, ends.after):
        if pair is not None:
            still &= pair[1] == 0
    return ends.old[still], ends.new[still]


def _with_moves(ends: Sequence[Ends], path: Path) -> Path:
    """Fit what moves weights."""
    rows: list[Any] = []
    for e in ends:
        if e.after is None:
            return path
        now = normalised(*e.after)
        then = np.zeros_like(now) if e.before is None else normalised(*e.before)
        still = np.zeros(now.shape, bool)
        if e.before is not None:
            still = idle(e.before[1], e.after[1], path.second)
        moved = e.new.astype(np.float64) - decayed(e.old, path)
        rows.append(np.stack([moved, now, then, still]))
    table = np.concatenate(rows, axis=1) if rows else np.zeros((4, 0))
    table = table[:, np.isfinite(table).all(axis=0)]
    moved, now, then, resting = table
    rest, live = (resting > 0) & (then != 0), (resting == 0) & ((now != 0) | (then != 0))
    new, old = _least_squares(np.stack([now[live], then[live]]), moved[live])
    drift, _ = _least_squares(np.stack([then[rest], 0 * then[rest]]), moved[rest])
    sizes = np.abs(now[live & (now != 0)])
    size = float(np.median(sizes)) if sizes.size else 1.0
    return replace(path, new=new, old=old, drift=drift, size=_single(size, 1.0))


def _least_squares(columns: Floats, values: Floats) -> tuple[float, float]:
    """Return two numbers by the normal equations, without the values that are far off."""
    found: Any = np.zeros(2)
    for _ in range(3):
        if values.size < _ENOUGH:
            break
        found, *_ = np.linalg.lstsq(columns.T, values, rcond=None)
        off = np.abs(values - found @ columns)
        near = off <= 6 * np.median(off) + 1e-30
        columns, values = columns[:, near], values[near]
    return _single(found[0]), _single(found[1])
