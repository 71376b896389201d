"""How a run stands: from its folder, without a tensor library, and without a file of it being changed."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from memcard.errors import CorruptError, UsageError
from memcard.jobs._runs_log import Log
from memcard.jobs._runs_log import read as read_log
from memcard.training import run_log, saves
from memcard.training._folder import holder
from memcard.training.keep import Keep
from memcard.training.run_log import Run
from memcard.training.saves import Save

State: TypeAlias = Literal["running", "done", "stopped", "crashed", "begun", "unreachable"]

_LOSSES: Final = ("loss", "train_loss", "val_loss", "eval_loss")
_STEPS: Final = (
    "steps",
    "max_steps",
    "total_steps",
    "num_training_steps",
)  # what settings call them
_RATE: Final = 200  # logged steps a forecast stands on
_SILENT: Final = 900.0  # seconds without a line after which a running one is worth a word


@dataclass(frozen=True, slots=True)
class RunReport:
    """One run, as lists show it.

    Attributes:
        name: of the run.
        id: of the run; empty if it is not known.
        folder: of the run.
        state: ``running``; ``done``: all steps are; ``stopped``: it was ended before, and saved; ``crashed``: its
            process ended with an error or without a word; ``begun``: nothing was logged yet; ``unreachable``:
            its folder is not there.
        step: finished steps.
        steps: of the whole training; None if that is not known.
        metric: name of the loss; None if nothing was measured.
        value: of it, at the last step that has one.
        curve: step and value of it, in order; of a long log samples.
        saves: steps of the saves, the oldest first.
        best: step of the best save by the metric the run keeps its saves by; None if it keeps none so.
        nbytes: of all files of the run.
        begun: seconds since 1970.
        changed: when something was logged last; 0 if nothing was.
        left: seconds to the end, as fast as it goes now; None unless it runs.
        pid: of the process that trains, 0 if it is not known; None unless it runs.
        why: it ended: a signal or an error; empty if it does not say.
        note: what a person should know, one sentence; mostly empty.
    """

    name: str
    id: str
    folder: Path
    state: State
    step: int = 0
    steps: int | None = None
    metric: str | None = None
    value: float | None = None
    curve: Sequence[tuple[int, float]] = ()
    saves: tuple[int, ...] = ()
    best: int | None = None
    nbytes: int = 0
    begun: float = 0.0
    changed: float = 0.0
    left: float | None = None
    pid: int | None = None
    why: str = ""
    note: str = ""

    @property
    def share(self) -> float | None:
        """How much of it is done, 0..1; None if that is not known."""
        return None if not self.steps else min(1.0, self.step / self.steps)

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        plain = (
            "name",
            "id",
            "state",
            "step",
            "steps",
            "metric",
            "best",
            "nbytes",
            "pid",
            "why",
            "note",
        )
        return {
            **{key: getattr(self, key) for key in plain},
            "folder": str(self.folder),
            "value": None if self.value is None else saves.to_json(self.value),
            "curve": [[step, saves.to_json(value)] for step, value in self.curve],
            "saves": list(self.saves),
            "begun": self.begun or None,
            "changed": self.changed or None,
            "seconds_left": None if self.left is None else round(self.left),
        }


@dataclass(frozen=True, slots=True)
class Opened:
    """A run folder that was looked at.

    Attributes:
        folder: of the run.
        run: what ``run.json`` says; made up from the saves where that is missing.
        log: of the run.
        numbered: step and path of each save, the oldest first.
    """

    folder: Path
    run: Run
    log: Log
    numbered: Sequence[tuple[int, Path]] = field(default_factory=list)

    def metric(self, wanted: str | None = None) -> str | None:
        """Return the metric to show: the one that is asked for, or the loss.

        Raises:
            UsageError: it was never measured; lists those that were.
        """
        there = self.log.metrics()
        if wanted is not None and wanted not in there:
            listed = ", ".join(there) or "none"
            raise UsageError(
                f"{self.folder}: no metric {wanted!r} was logged. There are: {listed}."
            )
        if wanted is not None or not there:
            return wanted
        known: list[str] = [name for name in _LOSSES if name in there]
        return (known or [name for name in there if "loss" in name.lower()] or there)[0]

    def steps(self) -> int | None:
        """Return how many steps there are in all: as the loop said, or the settings do."""
        if self.run.steps is not None:
            return self.run.steps
        options = self.run.settings.get("options")
        for found in (self.run.settings, options if isinstance(options, Mapping) else {}):
            for key in _STEPS:
                if type(value := found.get(key)) is int and value > 0:
                    return value
        return None


def is_run(folder: Path) -> bool:
    """Whether a folder is one of a run."""
    return (folder / run_log.RUN).is_file() or bool(saves.numbered(folder))


def opened(folder: Path, *, whole: bool = False) -> Opened:
    """Look at a run folder; ``whole``: look at all of its log, however long.

    Raises:
        CorruptError: ``run.json`` is damaged, and there is no save that tells what it said.
    """
    numbered = saves.numbered(folder)
    try:
        run = run_log.read_run(folder)
    except CorruptError:
        if not numbered:
            raise
        run = None
    if run is None:
        first = next(iter(saves.sound(saves.listed(folder))), None)
        run = Run("", folder.name, 0.0) if first is None else Run(first.run, first.name, first.time)
    return Opened(folder, run, read_log(folder, whole=whole), numbered)


def reported(found: Opened, metric: str | None = None, *, strict: bool = True) -> RunReport:
    """Say how a run stands.

    Args:
        found: the run.
        metric: whose curve to show; None: the loss.
        strict: refuse a metric that was never measured; else there is no curve.

    Raises:
        UsageError: see ``strict``.
    """
    run, log = found.run, found.log
    pid, steps = holder(found.folder), found.steps()
    step = max(log.step, found.numbered[-1][0] if found.numbered and not log.step else 0)
    state, why = _state(found, pid, step, steps)
    known = strict or metric is None or metric in log.metrics()
    shown = found.metric(metric) if known else None
    curve = log.values(shown) if shown is not None else []
    return RunReport(
        *(run.name, run.id, found.folder, state, step, steps, shown),
        value=curve[-1][1] if curve else None,
        curve=curve,
        saves=tuple(number for number, _ in found.numbered),
        best=_best(found),
        nbytes=_nbytes(found.folder),
        begun=run.created,
        changed=log.changed,
        left=_left(log, step, steps, since=float(run.command.get("at") or 0))
        if state == "running"
        else None,
        pid=pid,
        why=why,
        note=_note(found, state) or _wild(shown, curve),
    )


def unreachable(name: str, run: str, folder: Path, why: str) -> RunReport:
    """Say that a run is known and its folder is not there, or cannot be read."""
    return RunReport(name, run, folder, "unreachable", note=why)


def _state(found: Opened, pid: int | None, step: int, steps: int | None) -> tuple[State, str]:
    if pid is not None:
        return "running", ""
    if not found.log.events and not found.log.points and not found.numbered:
        return "begun", ""
    ended = found.log.last("ended")
    began = float(found.run.command.get("at") or 0)
    if ended is not None and float(ended["time"]) < began - 1:
        ended = None  # of an earlier process; the last one said nothing
    error = "" if ended is None else str(ended.get("error", ""))
    if steps is not None and step >= steps and not error:
        return "done", ""
    if ended is None:
        return "crashed", ""
    if error:
        return "crashed", error
    if name := str(ended.get("signal", "")):
        return "stopped", name
    return ("stopped" if steps is not None else "done"), ""


def _left(log: Log, step: int, steps: int | None, *, since: float) -> float | None:
    """Return the seconds to the end from the time the latest steps of this process took."""
    recent = [p for p in log.recent[-_RATE:] if p.time >= since]
    if steps is None or len(recent) < 2 or recent[-1].step == recent[0].step:
        return None
    each = (recent[-1].time - recent[0].time) / (recent[-1].step - recent[0].step)
    return each * max(0, steps - step)


def _note(found: Opened, state: State) -> str:
    host = str(found.run.command.get("host", ""))
    if state == "running" and found.log.changed and time.time() - found.log.changed > _SILENT:
        return "it has logged nothing for a while"
    if state == "crashed" and host and host != platform.node():
        return f"it was begun on {host}; whether it still runs there cannot be seen from here"
    return ""


def _wild(metric: str | None, curve: Sequence[tuple[int, float]]) -> str:
    """Say since when a metric is no number any more; empty if it is one."""
    since = None
    for step, value in reversed(curve):
        if math.isfinite(value):
            break
        since = step, value
    return "" if since is None else f"{metric} is {since[1]} since step {since[0]}"


def keep_of(run: Run) -> Keep:
    """Return the rules by which the saves of a run stay; the usual ones where they cannot be read."""
    known = {k: v for k, v in run.keep.items() if k in Keep.__dataclass_fields__}
    try:
        return Keep(**known)
    except (UsageError, TypeError):
        return Keep()


def _best(found: Opened) -> int | None:
    keep = keep_of(found.run)
    if not keep.best:
        return None
    best = best_of(keep, saves.sound(saves.listed(found.folder)))
    return None if best is None else best.step


def best_of(keep: Keep, kept: Sequence[Save]) -> Save | None:
    """Return the best save by the metric the rules name."""
    if keep.by is None:
        return None
    better = 1 if keep.mode == "min" else -1
    known = [s for s in kept if keep.by in s.metrics and not math.isnan(s.metrics[keep.by])]
    return min(known, key=lambda s: (better * s.metrics[keep.by or ""], s.step), default=None)


def _nbytes(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_size  # noqa: PTH118  # a long list
            except OSError:
                continue  # removed since it was listed
    return total
