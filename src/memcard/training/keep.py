"""Which saves of a run stay. Nothing here touches a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isnan
from typing import Any, Literal, Protocol, get_args

from memcard.errors import UsageError


class Kept(Protocol):
    """What the choice depends on: a save."""

    @property
    def step(self) -> int:
        """Finished optimizer steps."""
        ...

    @property
    def time(self) -> float:
        """Seconds since 1970 when it was made."""
        ...

    @property
    def metrics(self) -> Mapping[str, float]:
        """What was measured at that step."""
        ...


@dataclass(frozen=True, slots=True)
class Keep:
    """Which saves of a run stay; one that any rule wants stays.

    Attributes:
        last: this many of the newest, at least 1.
        best: this many of the best by the metric ``by``; of equals the older.
        by: name of the metric. Saves without it, or with NaN, are never among the best.
        mode: ``min`` if a lower metric is better, ``max`` if a higher one is.
        every: saves at multiples of this many steps stay for ever.
        hours: one save for each of so many hours stays for ever, the first of a run among them.
    """

    last: int = 3
    best: int = 0
    by: str | None = None
    mode: Literal["min", "max"] = "min"
    every: int | None = None
    hours: float | None = None

    def __post_init__(self) -> None:
        faults = []
        if self.last < 1:
            faults.append(f"last is {self.last}; it must be 1 or more")
        if self.best < 0:
            faults.append(f"best is {self.best}; it must be 0 or more")
        if self.best and self.by is None:
            faults.append("best needs by=, the name of a metric")
        if self.by is not None and not self.best:
            faults.append(f"by={self.by!r} needs best=, how many to keep")
        if self.mode not in get_args(Literal["min", "max"]):
            faults.append(f"mode is {self.mode!r}; it can be 'min' or 'max'")
        if self.every is not None and self.every < 1:
            faults.append(f"every is {self.every}; it must be 1 or more")
        if self.hours is not None and not self.hours > 0:
            faults.append(f"hours is {self.hours}; it must be more than 0")
        if faults:
            raise UsageError(f"Keep: {'; '.join(faults)}.")

    @property
    def at_least(self) -> int:
        """How many saves there are in the end at the least, those kept for ever not counted."""
        return self.last + self.best

    def wants(self, step: int, metrics: Mapping[str, float], saves: Iterable[Kept]) -> bool:
        """Tell whether a rule would keep a save of this step for longer than the newest ones.

        Then a save is worth making although none is due.
        """
        if self.every is not None and step % self.every == 0:
            return True
        value = metrics.get(self.by) if self.best and self.by is not None else None
        if value is None or isnan(value):
            return False
        ranked = self._ranked(saves)
        return len(ranked) < self.best or self._rank(value) < self._rank_of(ranked[self.best - 1])

    def choose(self, saves: Iterable[Kept]) -> frozenset[int]:
        """Return the steps of the saves that stay."""
        found = sorted(saves, key=lambda save: save.step)
        stay = {save.step for save in found[-self.last :]}
        stay |= {save.step for save in self._ranked(found)[: self.best]}
        if self.every is not None:
            stay |= {save.step for save in found if save.step % self.every == 0}
        if self.hours is not None:
            stay |= set(self._hourly(found, self.hours))
        return frozenset(stay)

    @staticmethod
    def _hourly(saves: Iterable[Kept], hours: float) -> Iterable[int]:
        before: float | None = None
        for save in saves:
            if before is None or save.time - before >= hours * 3600:
                before = save.time
                yield save.step

    def _ranked(self, saves: Iterable[Kept]) -> list[Kept]:
        """Return the saves that have the metric, the best first."""
        if self.by is None:
            return []
        known = [s for s in saves if self.by in s.metrics and not isnan(s.metrics[self.by])]
        return sorted(known, key=lambda save: (self._rank_of(save), save.step))

    def _rank_of(self, save: Kept) -> float:
        return self._rank(save.metrics[self.by or ""])

    def _rank(self, value: float) -> float:
        return value if self.mode == "min" else -value

    def to_dict(self) -> dict[str, Any]:
        """Return the rules as JSON values."""
        return {
            "last": self.last,
            "best": self.best,
            "by": self.by,
            "mode": self.mode,
            "every": self.every,
            "hours": self.hours,
        }
