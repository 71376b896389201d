"""The search itself: guidance scale, then schedule and sampler, then steps, then the check on what was held out.

Each phase decides by the measure that can see it. Guidance by adherence, which has a peak. Samplers by how
near a fixed number of evaluations comes to the converged picture of the same seed. Steps by the same: the
fewest from which more change nothing one would see.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import sqrt
from statistics import fmean
from typing import Any, Final

from memcard.core.progress import Listener, Notice, Progress, silent
from memcard.errors import UsageError
from memcard.generation.samplers import SAMPLERS
from memcard.jobs._generate_clock import duration
from memcard.jobs._tune_cells import Cell, Cells
from memcard.jobs._tune_painter import RIVALS, Painter, evaluations, judging
from memcard.jobs._tune_prompts import Prompts
from memcard.jobs._tune_race import Margin, Race, margin, paired, race
from memcard.jobs._tune_verdict import TRIFLE

JUDGED: Final = ("adherence", "recognition", "likelihood", "exposure", "clipping", "saturation",
                 "contrast", "sharpness")  # fmt: skip
CONVERGED: Final = ("convergence", "convergence_latent")
# Samplers without fresh noise: those have a converged picture. The usual ones first.
_SAMPLERS: Final = ("dpmpp_2m", "unipc", "dpmpp_3m", "deis", "euler", "heun", "ddim")
_SCHEDULES: Final = ("normal", "karras", "exponential", "beta", "simple", "sgm_uniform")
_GRID: Final = (
    2,
    3,
    4,
    5,
    6,
    7,
    8,
    10,
    12,
    14,
    16,
    18,
    20,
    22,
    25,
    28,
    30,
    35,
    40,
    50,
    60,
    80,
    100,
)
_SHARE: Final = 0.9  # of the pictures must have converged
_LONGER: Final = 3  # times the usual steps make the picture that counts as converged
_REFINED: Final = 2  # rounds of finer guidance scales
_TIMED: Final = 4  # pictures that the estimate of the time stands on
_SCALE: Final = 150  # pictures that the numbers below suit


@dataclass(frozen=True, slots=True)
class Plan:
    """How many pairs of prompt and seed each phase has."""

    first: int  # of a race
    cfg: int
    converged: int
    held_out: int

    @staticmethod
    def of(pictures: int) -> Plan:
        """Spread a budget over the phases."""
        part = pictures / _SCALE
        return Plan(
            *(3 if part < 1 else 4, max(4, round(12 * part))),
            *(max(3, round(6 * part)), max(4, round(12 * part))),
        )


@dataclass(frozen=True, slots=True)
class Point:
    """What one value of a setting was measured to be: the mean of each score with its interval."""

    value: Any
    scores: Mapping[str, Margin]
    dropped: int | None = None  # pairs after which it left the race


@dataclass(slots=True)
class Search:
    """A search under way, and what it found."""

    painter: Painter
    prompts: Prompts
    cells: Cells
    plan: Plan
    seed: int
    closeness: float  # dB
    pictures: int
    kept: Mapping[str, Any] = field(default_factory=dict)  # settings that are not searched
    clip: bool = False
    progress: Listener = silent
    cfg_points: list[Point] = field(default_factory=list)
    sampler_points: list[Point] = field(default_factory=list)
    step_points: list[Point] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _marks: list[tuple[float, int]] = field(default_factory=list)
    _estimated: bool = False

    def run(self) -> Cell:
        """Find the settings; return a cell with them."""
        best = self.usual
        if "cfg" not in self.kept:
            best = self._cfg(best)
        if not {"sampler", "schedule"} & set(self.kept):
            best = self._sampler(best)
        if "steps" not in self.kept:
            best = self._steps(best)
        return best

    @property
    def usual(self) -> Cell:
        """The family's own settings."""
        used = self.painter.usual
        return Cell(used.cfg, used.steps, used.sampler, used.schedule, "", 0)

    def at(self, settings: Cell, number: int, *, held_out: bool = False) -> Cell:
        """Return a cell for the n-th pair of prompt and seed; what is held out has seeds of its own."""
        side = self.prompts.held_out if held_out else self.prompts.search
        first = self.seed + (1_000_000 if held_out else 0)
        return replace(settings, prompt=side[number % len(side)], seed=first + number)

    def judge(self, cell: Cell) -> dict[str, float]:
        """Return all scores of a picture that stands for itself."""
        plain = replace(cell, cfg=1.0)
        return self._scores(cell, self._judged, unguided=plain)

    @property
    def _judged(self) -> tuple[str, ...]:
        return (*JUDGED, "clip_score") if self.clip else JUDGED

    def _scores(
        self,
        cell: Cell,
        names: Sequence[str],
        *,
        reference: Cell | None = None,
        unguided: Cell | None = None,
    ) -> dict[str, float]:
        known = self.cells.get(cell) or {}
        against = "" if reference is None else f"@{reference.sampler}/{reference.schedule}"
        if any(name + against not in known for name in names):
            rivals = self.prompts.rivals(cell.prompt, RIVALS)
            found, picture = self.painter.scores(
                cell, names, rivals, reference=reference, unguided=unguided
            )
            found = {name + against: score for name, score in found.items()}
            self.cells.put(cell, found, picture)
            known = {**known, **found}
            self._tell()
        return known

    def _tell(self) -> None:
        whole = evaluations(self.usual) + judging(RIVALS + 1)
        done = min(self.pictures, round(self.painter.evaluations / whole))
        self.progress(Progress("pictures", done, self.pictures, "steps"))
        self._marks.append((time.perf_counter(), done))
        (begun, first), (now, _) = self._marks[0], self._marks[-1]
        if not self._estimated and done - first >= _TIMED:  # the first picture warms up
            self._estimated = True
            left = (now - begun) / (done - first) * (self.pictures - done)
            self.progress(Notice(f"At most {duration(left)} more on this machine."))

    def _cfg(self, best: Cell) -> Cell:
        """Find the guidance scale with the highest mean adherence."""
        usual = best.cfg
        if usual <= 1:
            self.notes.append("The family runs without guidance, so none was searched.")
            return best
        grid = {usual, *map(nice, (1.0, usual / 4, usual / 2, usual * 2))}
        races = [self._cfg_race(best, [usual, *sorted(grid - {usual})])]
        for _ in range(_REFINED):
            winner = races[-1].winner
            finer = between(winner, grid) - grid
            if not finer:
                break
            grid |= finer
            races.append(self._cfg_race(best, [winner, *sorted(finer)]))
        winner = self._worth(best, races[-1].winner)
        dropped: dict[float, int] = {}
        for one in reversed(races):
            dropped |= {c: n for c, n in one.dropped.items() if c != winner}
        self.cfg_points = [self._cfg_point(best, c, winner, dropped.get(c)) for c in sorted(grid)]
        self.progress(Notice(f"Guidance: {winner:g} (the family's: {usual:g})."))
        return replace(best, cfg=winner)

    def _worth(self, best: Cell, winner: float) -> float:
        """Return the usual scale unless the winner is better beyond chance, and by more than a trifle."""
        rows = [self._known(replace(best, cfg=c), self.plan.cfg) for c in (winner, best.cfg)]
        gain = margin([a["adherence"] - b["adherence"] for a, b in zip(*rows, strict=False)])
        if winner == best.cfg or (gain.low > 0 and gain.mean >= TRIFLE):
            return winner
        self.notes.append(
            f"Guidance {winner:g} had the highest adherence, but {best.cfg:g} is as good as far as can be "
            f"told ({gain.mean:+.3f} nats, {gain.low:+.3f} to {gain.high:+.3f}, n = {gain.n}): it stays."
        )
        return best.cfg

    def _cfg_race(self, best: Cell, candidates: Sequence[float]) -> Race[float]:
        def measure(cfg: float, number: int) -> float:
            return self.judge(self.at(replace(best, cfg=cfg), number))["adherence"]

        return race(candidates, measure, first=self.plan.first, most=self.plan.cfg)

    def _cfg_point(self, best: Cell, cfg: float, winner: float, dropped: int | None) -> Point:
        """Return the scores of a scale as far as it was measured, as if it were on all pairs.

        What left early saw fewer prompts, perhaps the easy ones: so the winner's mean is shifted by the
        paired difference to the winner, and the interval is that of the difference.
        """
        ours = self._known(replace(best, cfg=cfg), self.plan.cfg)
        theirs = self._known(replace(best, cfg=winner), self.plan.cfg)
        both = list(zip(ours, theirs, strict=False))  # a race may have ended early for either
        scores = {}
        for name in self._judged:
            level = fmean(row[name] for row in theirs)
            gain = margin([a[name] - b[name] for a, b in both])
            scores[name] = Margin(level + gain.mean, level + gain.low, level + gain.high, gain.n)
        return Point(cfg, scores, dropped)

    def _known(self, settings: Cell, pairs: int) -> list[dict[str, float]]:
        rows = [self.cells.get(self.at(settings, n)) for n in range(pairs)]
        return [row for row in rows if row and "adherence" in row]

    def _sampler(self, best: Cell) -> Cell:
        """Find the schedule, then the sampler, that come nearest with half of the usual evaluations."""
        runs = max(2, best.steps * SAMPLERS[best.sampler].evaluations // 2)
        if SAMPLERS[best.sampler].random:
            self.notes.append(
                f"The family's sampler, {best.sampler}, draws fresh noise in every step, so it has no "
                "converged picture to be compared by: samplers were not searched."
            )
            return best
        known = self._way(best, best.sampler, best.schedule, runs) or best
        schedules = [s for s in _SCHEDULES if s != best.schedule]
        ways = [w for s in schedules if (w := self._way(best, best.sampler, s, runs))]
        known = self._nearer(best, known, ways)
        samplers = [s for s in _SAMPLERS if s != best.sampler]
        ways = [w for s in samplers if (w := self._way(best, s, known.schedule, runs))]
        known = self._nearer(best, known, ways)
        self.progress(Notice(f"Sampler: {known.sampler}, {known.schedule}."))
        return replace(best, sampler=known.sampler, schedule=known.schedule)

    def _nearer(self, best: Cell, known: Cell, others: Sequence[Cell]) -> Cell:
        """Return what comes nearest to the converged picture; what is used already, unless beyond chance."""
        found = self._nearest(best, [known, *others])
        if found == known:
            return known
        gain = paired(self._distances(best, found), self._distances(best, known))
        if gain.low > 0:
            return found
        self.notes.append(
            f"{found.sampler} {found.schedule} came nearer than {known.sampler} {known.schedule} by "
            f"{gain.mean:.1f} dB, no more than chance would give ({gain.low:+.1f} to {gain.high:+.1f})."
        )
        return known

    def _way(self, best: Cell, sampler: str, schedule: str, runs: int) -> Cell | None:
        """Return the settings of a sampler for so many evaluations; None if the model cannot use it."""
        if sampler not in SAMPLERS:
            return None
        known = SAMPLERS[sampler]
        usual = schedule if schedule in known.schedules else known.schedules[0]
        if usual != schedule and sampler == best.sampler:
            return None
        try:
            known.check(usual, self.painter.usual.prediction_type)
        except UsageError:
            return None
        steps = max(1, runs // known.evaluations)
        return replace(best, sampler=sampler, schedule=usual, steps=steps)

    def _nearest(self, best: Cell, ways: Sequence[Cell]) -> Cell:
        """Race samplers by the distance to the converged picture."""

        def measure(way: Cell, number: int) -> float:
            return self._distance(best, way, number)

        found = race(ways, measure, first=min(3, self.plan.converged), most=self.plan.converged)
        seen = {(p.value["sampler"], p.value["schedule"]) for p in self.sampler_points}
        for way, values in found.values.items():
            if (way.sampler, way.schedule) not in seen:
                value = {"sampler": way.sampler, "schedule": way.schedule, "steps": way.steps}
                point = Point(value, {"convergence": margin(values)}, found.dropped.get(way))
                self.sampler_points.append(point)
        return found.winner

    def _distance(self, reference: Cell, way: Cell, number: int) -> float:
        """Return how near a way comes to the converged picture of a pair, in dB."""
        longer = replace(reference, steps=max(40, _LONGER * self.usual.steps))
        against = self.at(longer, number)
        found = self._scores(self.at(way, number), CONVERGED, reference=against)
        return found[f"convergence@{against.sampler}/{against.schedule}"]

    def _distances(self, reference: Cell, way: Cell) -> list[float]:
        return [self._distance(reference, way, n) for n in range(self.plan.converged)]

    def _steps(self, best: Cell) -> Cell:
        """Find the fewest steps that end in the converged picture."""
        if SAMPLERS[best.sampler].random:
            self.notes.append("With fresh noise in every step no picture converges: steps stay.")
            return best
        most = 2 * self.usual.steps
        grid = sorted({n for n in _GRID if n <= most} | {self.usual.steps})
        seen: dict[int, list[float]] = {}

        def converged(steps: int) -> bool:
            seen[steps] = self._distances(best, replace(best, steps=steps))
            return sum(d >= self.closeness for d in seen[steps]) >= _SHARE * len(seen[steps])

        found = fewest(grid, converged)
        converged(best.steps)
        if found is None:
            found = best.steps
            self.notes.append(
                f"Even {most} steps did not converge to {self.closeness:g} dB in {_SHARE:.0%} of the "
                f"pictures: the family's {found} stay."
            )
        self.step_points = [Point(n, {"convergence": margin(seen[n])}) for n in sorted(seen)]
        self.progress(Notice(f"Steps: {found} (the family's: {best.steps})."))
        return replace(best, steps=found)

    def check(self, found: Cell) -> dict[str, tuple[Margin, Margin, Margin]]:
        """Compare with the family's settings on what was held out: ours, theirs, and by how much."""
        rows = [
            [self.judge(self.at(one, n, held_out=True)) for n in range(self.plan.held_out)]
            for one in (found, self.usual)
        ]
        result = {}
        for name in self._judged:
            ours, theirs = ([row[name] for row in side] for side in rows)
            result[name] = margin(ours), margin(theirs), paired(ours, theirs)
        return result


def fewest(grid: Sequence[int], good: Callable[[int], bool]) -> int | None:
    """Return the least of a rising grid that is good, if all above it are; None if the last is not."""
    low, high = 0, len(grid) - 1
    if not good(grid[high]):
        return None
    while low < high:
        middle = (low + high) // 2
        if good(grid[middle]):
            high = middle
        else:
            low = middle + 1
    return grid[high]


def nice(cfg: float) -> float:
    """Round a guidance scale to what people type: quarters, from 4 on halves, from 10 on whole numbers."""
    step = 0.25 if cfg < 4 else 0.5 if cfg < 10 else 1.0
    return max(1.0, round(cfg / step) * step)


def between(cfg: float, grid: set[float]) -> set[float]:
    """Return the scales half-way to both neighbours, as a ratio; beyond the highest, half as much again."""
    below = [c for c in grid if c < cfg]
    above = [c for c in grid if c > cfg]
    found = {nice(sqrt(cfg * max(below)))} if below else set()
    return found | {nice(sqrt(cfg * min(above))) if above else nice(cfg * 1.5)}
