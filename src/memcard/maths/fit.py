"""Which weighted sum of some checkpoints another one is: least squares over sampled values.

Source: Golub, Van Loan, "Matrix Computations", 4th ed., §5.3 (full-rank least squares).
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
_ROUGH, _EXACT = 3.0, 6  # what a first look may miss an error by; sums of one size that are solved
_ROWS = 1 << 14  # values for a first look
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
    found, *_ = np.linalg.lstsq(changes, (target - first) / unit, rcond=None)
    left = (target - first) / unit - changes @ found
    freedom = max(1, len(target) - len(columns))
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
        rough = {chosen: errors.of(chosen) for chosen in combinations(pool, size)}
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
        few = slice(None, None, 1 + len(target) // _ROWS)
        first, one = columns[0][few], unit[few]
        rows = [
            first / one,
            *((c[few] - first) / one for c in columns),
            (target[few] - first) / one,
        ]
        whole = np.stack(rows)
        self._inner = np.einsum("ij,kj->ik", whole, whole) / len(first)
        self._count = len(columns)

    def of(self, chosen: tuple[int, ...]) -> float:
        """Return about the root mean square of what is left, in units."""
        lead, rest = chosen[0] + 1, [i + 1 for i in chosen[1:]]
        # In terms of the rows: the lead column, the changes from it, and the target's change from it.
        basis = np.zeros((len(chosen) + 1, self._count + 2))
        basis[0, 0] = basis[0, lead] = 1
        for row, place in zip(basis[1:-1], rest, strict=True):
            row[place], row[lead] = 1, -1
        basis[-1, -1], basis[-1, lead] = 1, -1
        inner = basis @ self._inner @ basis.T
        if len(chosen) == 1:
            return float(np.sqrt(max(inner[-1, -1], 0.0)))
        found, *_ = np.linalg.lstsq(inner[:-1, :-1], inner[:-1, -1], rcond=None)
        return float(np.sqrt(max(inner[-1, -1] - found @ inner[:-1, -1], 0.0)))


def _of(
    target: Double, columns: Sequence[Double], unit: Double, chosen: tuple[int, ...]
) -> Solution:
    if len(chosen) == 1:  # a copy, rounded; a scaled one is nobody's checkpoint
        left = (target - columns[chosen[0]]) / unit
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
