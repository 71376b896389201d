"""Which weighted sum of some checkpoints another one is: least squares over sampled values.

A few wrong values must not spoil that. So some of the values are dealt into small hands, most of which have no
wrong one; each hand is solved by itself, and the median of their weights says which values lie far off. Those that
do not are solved together.

Sources: Golub, Van Loan, "Matrix Computations", 4th ed., §5.3 (full-rank least squares); Rousseeuw, Leroy,
"Robust Regression and Outlier Detection", 1987, ch. 5 (a robust start, then least squares on what lies near it).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Double = NDArray[np.float64]

# Steps people give weights in, the commonest first, and the largest denominator of a share such as 1/3.
_STEPS = (0.05, 0.01, 0.005, 0.001, 1e-4, 1e-5)
_DENOMINATOR = 12
# Standard errors by which a typed weight may miss the measured one: sums whose every step is rounded are
# not quite what least squares takes them for.
_WITHIN = 60
_EPSILON, _TINY = float(np.finfo(np.float64).eps), float(np.finfo(np.float64).tiny)
_ROUGH, _EXACT = 3.0, 6  # what a first look may miss an error by; sums of one size that are solved
_HANDS, _HAND = 31, 128  # hands, and values in each: of 0.3 % wrong ones most hands have none
_MOST = 3  # checkpoints in a sum that is looked for among others
_LEAST = 16  # values for each weight, of a hand that tells anything
_FAR, _SCALE = (
    6.0,
    1.4826,
)  # robust standard deviations that are far off; of a median of absolute values
_NEAR = 2.0  # rounding steps; nothing nearer is far off
_FEWEST = 0.99  # share of the values that must lie near
_AT_ONCE = 128  # sums: more need no less time, and memory
_ALL_TRIPLES = 16  # with more candidates, only those that explain most are tried in threes


class Solution(NamedTuple):
    """One weighted sum.

    Attributes:
        chosen: the columns that take part.
        weights: one per chosen column.
        spread: standard errors of the weights.
        error: root mean square of what is left, in units of ``unit``.
    """

    chosen: tuple[int, ...]
    weights: tuple[float, ...]
    spread: tuple[float, ...]
    error: float


def solve(target: Double, columns: Sequence[Double], unit: Double) -> Solution:
    """Fit ``target`` by all columns.

    The first column is what changes are counted from, so that the columns of close relatives, nearly
    parallel as they stand, come apart.

    Args:
        target: sampled values.
        columns: those of the candidates at the same places.
        unit: size of a rounding step of the target at each place; positive.
    """
    first = columns[0]
    changes = np.stack([first, *(c - first for c in columns[1:])], axis=1) / unit[:, None]
    change = (target - first) / unit
    found, near = steady(changes, change, _NEAR)
    changes, change = changes[near], change[near]
    left = change - changes @ found
    freedom = max(1, len(change) - len(columns))
    noise = float(left @ left) / freedom
    inverse = np.linalg.pinv(changes.T @ changes)
    spread = np.sqrt(np.maximum(np.diag(inverse) * noise, 0))
    rest = found[1:]
    weights = [1 + float(found[0]) - float(rest.sum()), *map(float, rest)]
    return Solution(
        tuple(range(len(columns))),
        tuple(weights),
        (float(spread.max(initial=0.0)), *map(float, spread[1:])),
        float(np.sqrt(noise)),
    )


def steady(changes: Double, change: Double, floor: float = 0.0) -> tuple[Double, NDArray[np.bool_]]:
    """Fit a change by some others; a few wrong values have no say.

    Args:
        changes: one column for each of the others.
        change: what is to be fitted.
        floor: what no value need come nearer than.

    Returns:
        The weights, and which values had a say.
    """
    hands = _dealt(len(change), changes.shape[1])
    found = _start(changes, change, hands)
    had = np.full(len(change), len(hands) == 1)  # which values had a say
    for _ in range(2):  # the start is rougher than the fit
        near = _near(change - changes @ found, floor)
        if not (near == had).all():
            found = np.asarray(np.linalg.lstsq(changes[near], change[near], rcond=None)[0])
        had = near
    return found, had


def _start(changes: Double, change: Double, hands: Sequence[NDArray[np.int64]]) -> Double:
    """Return weights that a few wrong values leave as they are."""
    found = [np.linalg.lstsq(changes[hand], change[hand], rcond=None)[0] for hand in hands]
    return np.asarray(np.median(found, axis=0), np.float64)


def _dealt(count: int, weights: int) -> list[NDArray[np.int64]]:
    """Deal values into hands, always the same; all into one if there are too few."""
    size = min(_HAND, count // _HANDS)
    if size < _LEAST * weights:
        return [np.arange(count)]
    order = np.random.default_rng(0).permutation(count)[: size * _HANDS]
    return list(order.reshape(_HANDS, size))


def _near(left: Double, floor: float) -> NDArray[np.bool_]:
    """Tell which values a fit comes near; all of them, if too many lie far off to be mistakes."""
    size = np.abs(left)
    near: NDArray[np.bool_] = size <= max(floor, _FAR * _SCALE * float(np.median(size)))
    return near if near.mean() >= _FEWEST else np.ones(len(left), bool)


def search(
    target: Double, columns: Sequence[Double], unit: Double, *, good: float
) -> Iterator[Solution]:
    """Yield solutions of one column, of two, of three and of all, as far as they are better than ``good``.

    Args:
        target: sampled values.
        columns: those of the candidates.
        unit: rounding steps of the target.
        good: largest error, in rounding steps, of a solution worth looking at.
    """
    if not len(target):
        return
    places = range(len(columns))
    few = list(places)
    if len(columns) > _ALL_TRIPLES:
        alone = [float(np.mean(np.abs(target - c) / unit)) for c in columns]
        few = sorted(places, key=lambda i: alone[i])[:_ALL_TRIPLES]
    errors = _Errors(target, columns, unit)
    for size, pool in ((1, list(places)), (2, list(places)), (3, few)):
        sums = list(combinations(pool, size))
        if not sums:
            continue
        rough = dict(zip(sums, errors.of(sums).tolist(), strict=True))
        near = sorted((c for c in rough if rough[c] <= _ROUGH * good), key=lambda c: rough[c])
        found = [_of(target, columns, unit, chosen) for chosen in near[:_EXACT]]
        yield from sorted((s for s in found if s.error <= good), key=lambda s: s.error)
    if len(columns) > 3:
        whole = solve(target, columns, unit)
        used = tuple(i for i in places if abs(whole.weights[i]) > max(4 * whole.spread[i], 1e-6))
        if len(used) > 3 and (found_ := _of(target, columns, unit, used)).error <= good:
            yield found_


class _Errors:
    """The errors of all sums of a few columns, from inner products that are taken once.

    Good to two digits where the columns are close relatives; ``solve`` has the rest.
    """

    def __init__(self, target: Double, columns: Sequence[Double], unit: Double) -> None:
        hands = []
        for hand in _dealt(len(target), _MOST):
            first, one = columns[0][hand], unit[hand]
            changes = [(c[hand] - first) / one for c in (*columns, target)]
            rows = np.stack([first / one, *changes])
            hands.append(rows @ rows.T / len(hand))
        self._inner = np.stack(hands)
        self._count = len(columns)

    def of(self, sums: Sequence[tuple[int, ...]]) -> Double:
        """Return about the root mean square of what each sum leaves, in units; of the median hand.

        Args:
            sums: which columns take part in each; of one number of columns.
        """
        found = [
            self._some(np.array(sums[i : i + _AT_ONCE])) for i in range(0, len(sums), _AT_ONCE)
        ]
        return np.concatenate(found)

    def _some(self, sums: NDArray[np.int64]) -> Double:
        count, parts = sums.shape
        ends = np.zeros((count, 1), np.int64)
        rows = np.hstack([ends, sums + 1, ends + self._count + 1])
        inner = self._inner[:, rows[:, :, None], rows[:, None, :]]
        # In terms of the rows: the lead column, the changes from it, and the target's change from it.
        basis = np.eye(parts + 1, parts + 2, 1)
        basis[:, 1] = -1
        basis[0, :2] = 1
        return _left(basis @ inner @ basis.T)


def _left(inner: Double) -> Double:
    """Return the root of what the last row has across all others; of the median of the first axis.

    Gram and Schmidt's way, from inner products: a row that is a sum of those before it says nothing.
    """
    size = np.sqrt(np.maximum(np.diagonal(inner, axis1=-2, axis2=-1), _TINY))
    size[..., -1] = 1.0
    inner = inner / size[..., :, None] / size[..., None, :]
    last = inner.shape[-1] - 1
    for i in range(last if last > 1 else 0):  # of one column there is nothing to choose
        row, own = inner[..., i, :], inner[..., i, i, None]
        share = np.where(own > last * _EPSILON, row / np.maximum(own, _TINY), 0.0)
        inner = inner - inner[..., :, i, None] * share[..., None, :]
    found: Double = np.sqrt(np.median(np.maximum(inner[..., -1, -1], 0.0), axis=0))
    return found


def _of(
    target: Double, columns: Sequence[Double], unit: Double, chosen: tuple[int, ...]
) -> Solution:
    if len(chosen) == 1:  # a copy, rounded; a scaled one is nobody's checkpoint
        left = (target - columns[chosen[0]]) / unit
        left = left[_near(left, _NEAR)]
        return Solution(chosen, (1.0,), (0.0,), float(np.sqrt(np.mean(left * left))))
    return solve(target, [columns[i] for i in chosen], unit)._replace(chosen=chosen)


def typed(solution: Solution) -> list[tuple[float, ...]]:
    """List what somebody may have typed as the weights: rounded to usual steps, the roundest first.

    Only the bits of a result can tell which it was. The last one is what was measured.
    """
    within = max(_WITHIN * max(solution.spread, default=0.0), _WITHIN * 1e-7)
    found = []
    for step in _STEPS:
        rounded = tuple(round(round(w / step) * step, 10) for w in solution.weights)
        found.append(rounded)
        if len(rounded) == 2 and abs(sum(rounded) - 1) < step / 2:
            found.append((1 - rounded[1], rounded[1]))
    shares = tuple(float(Fraction(w).limit_denominator(_DENOMINATOR)) for w in solution.weights)
    found.insert(2, shares)
    near = [w for w in found if _distance(w, solution.weights) <= within]
    return list(dict.fromkeys([*near, solution.weights]))


def _distance(a: Sequence[float], b: Sequence[float]) -> float:
    return max((abs(x - y) for x, y in zip(a, b, strict=True)), default=0.0)


def rounding_step(values: Double, bits: int, smallest: float) -> Double:
    """Return the distance between neighbours of a dtype at each value.

    Args:
        values: the values.
        bits: of the dtype's fraction, the leading one included.
        smallest: its smallest positive value.
    """
    _, exponent = np.frexp(values)
    step: Double = np.maximum(np.ldexp(1.0, exponent - bits), smallest)
    return step
