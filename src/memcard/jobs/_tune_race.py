"""Which of several candidates is best, found with few measurements: paired, in rounds, losers dropped.

Every candidate is measured on the same prompts and seeds, so that an easy prompt favours nobody: what is
compared are differences, pair by pair. After each round those that are worse beyond chance leave, and of
the others at most half go on.

Sources: successive halving, Jamieson and Talwalkar 2015, arXiv:1502.07943; racing, Maron and Moore 1993,
"Hoeffding races"; the expansion of Student's t, Abramowitz and Stegun 1964, formula 26.7.5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil, inf, sqrt
from statistics import NormalDist, fmean, stdev
from typing import Any, Final, Generic, TypeVar

C = TypeVar("C")
CONFIDENCE: Final = 0.95


@dataclass(frozen=True, slots=True)
class Margin:
    """A mean with the interval it lies in.

    Attributes:
        mean: of the values.
        low, high: ends of the two-sided interval of ``CONFIDENCE``; infinite with fewer than two values.
        n: number of values.
    """

    mean: float
    low: float
    high: float
    n: int

    @property
    def verdict(self) -> str:
        """``better`` or ``worse`` if 0 lies outside the interval, else ``no difference shown``."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else "no difference shown"

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; an infinite end is None."""
        return {k: None if v in (inf, -inf) else v for k, v in asdict(self).items()} | {
            "verdict": self.verdict
        }


@dataclass(frozen=True, slots=True)
class Race(Generic[C]):
    """How a race went.

    Attributes:
        winner: the best by mean among those that were measured to the end.
        values: of each candidate, as far as it was measured; the n-th value is of the n-th pair.
        dropped: candidate to the number of pairs after which it left.
    """

    winner: C
    values: Mapping[C, Sequence[float]]
    dropped: Mapping[C, int]


def margin(values: Sequence[float], confidence: float = CONFIDENCE) -> Margin:
    """Return the mean of values with its interval, by Student's t."""
    if len(values) < 2:
        return Margin(values[0] if values else 0.0, -inf, inf, len(values))
    mean, n = fmean(values), len(values)
    half = t_quantile(0.5 + confidence / 2, n - 1) * stdev(values) / sqrt(n)
    return Margin(mean, mean - half, mean + half, n)


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Margin:
    """Return how much larger ``ours`` is, pair by pair; both in one order."""
    return margin([a - b for a, b in zip(ours, theirs, strict=True)])


def t_quantile(p: float, freedom: int) -> float:
    """Return the value that Student's t stays below with probability ``p``.

    Exact for 1 and 2 degrees of freedom, within 1 % from 3 on for p up to 0.995.
    """
    if freedom == 1:
        from math import pi, tan

        return tan(pi * (p - 0.5))
    if freedom == 2:
        return (2 * p - 1) * sqrt(2 / (4 * p * (1 - p)))
    z, v = NormalDist().inv_cdf(p), freedom
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * v**4)
    )


def race(
    candidates: Sequence[C], measure: Callable[[C, int], float], *, first: int, most: int
) -> Race[C]:
    """Find the candidate with the highest mean.

    Args:
        candidates: at least one; of equals the first wins, so put the usual one first.
        measure: the score of a candidate on the n-th pair of prompt and seed.
        first: pairs of the first round; each further round doubles them.
        most: pairs of the last round.
    """
    values: dict[C, list[float]] = {c: [] for c in candidates}
    dropped: dict[C, int] = {}
    running, pairs = list(values), min(first, most)
    while True:
        for number in range(pairs):
            for one in running:
                if len(values[one]) <= number:
                    values[one].append(measure(one, number))
        ranked = sorted(running, key=lambda c: -fmean(values[c]))
        leader = ranked[0]
        stay = [c for c in ranked if c == leader or paired(values[c], values[leader]).high >= 0]
        if pairs < most:
            stay = stay[: max(2, ceil(len(running) / 2))]
        dropped |= {c: pairs for c in running if c not in stay}
        running = [c for c in running if c in stay]
        if len(running) == 1 or pairs >= most:
            return Race(leader, values, dropped)
        pairs = min(most, pairs * 2)
