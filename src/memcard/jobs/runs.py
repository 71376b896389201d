"""Trainings, as `memcard runs` shows them and works on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memcard.core.progress import Listener, Progress, silent
from memcard.errors import MemcardError, NotFoundError
from memcard.jobs import _runs_find as find
from memcard.jobs._runs_find import Found
from memcard.jobs._runs_read import (
    Opened,
    RunReport,
    best_of,
    keep_of,
    opened,
    reported,
    unreachable,
)
from memcard.store import trainings
from memcard.store.layout import Layout, default_home, exists
from memcard.store.writer import Writer
from memcard.training import saves
from memcard.training.keep import Keep
from memcard.training.saves import Broken, OpenSave, Save, to_json

if TYPE_CHECKING:
    from memcard.jobs._runs_promote import Promoted
    from memcard.jobs._runs_prune import Pruned
    from memcard.jobs._runs_resume import Restart


def home_of(library: str | Path | None) -> Layout:
    """Return the library to ask: its folder, or the usual one."""
    return Layout(Path(library).expanduser() if library else default_home())


def runs(
    folders: Sequence[str | Path] = (),
    *,
    metric: str | None = None,
    library: str | Path | None = None,
) -> list[RunReport]:
    """List runs, the latest first.

    Args:
        folders: of runs, or with runs in them; none: those the library knows.
        metric: whose curve to show; None: the loss. Runs that did not measure it show none.
        library: its folder; None: ``$MEMCARD_HOME`` or the platform's.

    Raises:
        NotFoundError: there is no such folder, or no run in it.
    """
    found = find.inside([Path(f) for f in folders]) if folders else find.every(home_of(library))
    reports = [_reported(one, metric) for one in found]
    return sorted(reports, key=lambda r: (-r.changed or -r.begun, r.name))


def _reported(found: Found, metric: str | None) -> RunReport:
    if not found.is_there:
        why = "its folder is not there: a disk that is not connected, or it was removed"
        return unreachable(found.name, found.id, found.folder, why)
    try:
        # a named metric may be one that few lines have, which samples would miss
        run = opened(found.folder, whole=metric is not None)
        return reported(run, metric, strict=False)
    except (MemcardError, OSError) as error:
        return unreachable(found.name or found.folder.name, found.id, found.folder, str(error))


def the_run(text: str, library: str | Path | None = None, *, whole: bool = False) -> Opened:
    """Return the run a user means; errors as ``_runs_find.one``."""
    found = find.one(home_of(library), text)
    if not found.is_there:
        raise NotFoundError(
            f"{found.folder}: the folder of {found.name or text} is not there. Connect its disk; or forget the "
            f"run: memcard runs forget {found.id}."
        )
    return opened(found.folder, whole=whole)


@dataclass(frozen=True, slots=True)
class SaveReport:
    """One save of a run.

    Attributes:
        step: finished steps.
        path: of the file.
        nbytes: of the file.
        time: seconds since 1970 when it was taken; 0 if it does not say.
        metrics: as of that step.
        best: whether it is the best by the metric the run keeps its saves by.
        fault: what is wrong with it; empty if nothing shows.
        checked: whether every byte was compared with its digest just now.
    """

    step: int
    path: Path
    nbytes: int
    time: float = 0.0
    metrics: tuple[tuple[str, float], ...] = ()
    best: bool = False
    fault: str = ""
    checked: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        return {
            **{key: getattr(self, key) for key in ("step", "nbytes", "best", "fault", "checked")},
            "path": str(self.path),
            "time": self.time or None,
            "metrics": {name: to_json(value) for name, value in self.metrics},
        }


@dataclass(frozen=True, slots=True)
class RunShown:
    """Everything about one run.

    Attributes:
        report: how it stands.
        settings: what the program noted.
        keep: the rules by which saves stay.
        command: how its process was started.
        saves: the oldest first.
        metrics: by name: first, last, lowest and highest value.
        events: what happened, the latest last: resumed, failed, waited, promoted, ended.
        sampled: whether the log is so long that curve, lowest and highest are of samples from all over it.
    """

    report: RunReport
    settings: dict[str, Any]
    keep: dict[str, Any]
    command: dict[str, Any]
    saves: tuple[SaveReport, ...]
    metrics: dict[str, tuple[float, float, float, float]]
    events: tuple[dict[str, Any], ...]
    sampled: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        plain = ("settings", "keep", "command")
        rows = {
            name: dict(zip(("first", "last", "lowest", "highest"), map(to_json, row), strict=True))
            for name, row in self.metrics.items()
        }
        return {
            **self.report.to_dict(),
            **{key: getattr(self, key) for key in plain},
            "saves": [save.to_dict() for save in self.saves],
            "metrics": rows,
            "sampled": self.sampled,
            "events": list(self.events),
        }


_TOLD = ("resumed", "failed", "waited", "promoted", "ended")


def show(run: str, *, metric: str | None = None, library: str | Path | None = None) -> RunShown:
    """Return everything about one run; of its saves the headers are read.

    Args:
        run: its name, its folder, or the first six digits of its id.
        metric: whose curve to show; None: the loss.
        library: as in ``runs``.

    Raises:
        NotFoundError: there is no such run, or its folder is not there.
        MismatchError: several are called so.
        UsageError: this metric was never measured.
    """
    found = the_run(run, library, whole=True)
    kept = saves_of(found)
    rows = {}
    for name in found.log.metrics():
        values = [value for _, value in found.log.values(name)]
        finite = [value for value in values if not isnan(value)] or values
        rows[name] = (values[0], values[-1], min(finite), max(finite))
    events = tuple(event for event in found.log.events if event["event"] in _TOLD)
    plain = (dict(found.run.settings), dict(found.run.keep), dict(found.run.command))
    return RunShown(reported(found, metric), *plain, kept, rows, events, found.log.sampled)


def saves_of(found: Opened) -> tuple[SaveReport, ...]:
    """Return the saves of a run, the oldest first; only headers are read."""
    listed = list(saves.listed(found.folder))
    best = best_of(keep_of(found.run), saves.sound(listed))
    return tuple(_save(one, best) for one in listed)


def _save(one: Save | Broken, best: Save | None = None) -> SaveReport:
    if isinstance(one, Broken):
        size = one.path.stat().st_size if one.path.exists() else 0
        return SaveReport(one.step, one.path, size, fault=str(one.error))
    metrics = tuple(one.metrics.items())
    return SaveReport(one.step, one.path, one.size, one.time, metrics, best=one is best)


def promote(
    run: str,
    step: str | int,
    name: str,
    *,
    average: str | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    library: str | Path | None = None,
    progress: Listener = silent,
) -> Promoted:
    """Make a checkpoint of the weights in a save; see ``_runs_promote.promote``."""
    from memcard.jobs._runs_promote import promote as make

    return make(
        *(home_of(library), the_run(run, library), str(step)),
        name=name,
        average=average,
        out=out,
        overwrite=overwrite,
        dry_run=dry_run,
        progress=progress,
    )


def prune(
    run: str,
    keep: Mapping[str, Any] | None = None,
    *,
    dry_run: bool = False,
    for_good: bool = False,
    library: str | Path | None = None,
    progress: Listener = silent,
) -> Pruned:
    """Put saves away; ``keep`` has arguments of ``Keep``, None the run's own. See ``_runs_prune.prune``."""
    from memcard.jobs._runs_prune import prune as put_away

    found = the_run(run, library, whole=True)
    rules = None if keep is None else Keep(**keep)
    return put_away(
        *(home_of(library), found, rules), dry_run=dry_run, for_good=for_good, progress=progress
    )


def restart(run: str, *, library: str | Path | None = None) -> Restart:
    """Say how a run is started again; see ``_runs_resume.restart``."""
    from memcard.jobs._runs_resume import restart as look

    return look(home_of(library), the_run(run, library))


def verify(
    run: str, *, library: str | Path | None = None, progress: Listener = silent
) -> tuple[SaveReport, ...]:
    """Read every save of a run, and compare every byte with its digest.

    Raises:
        NotFoundError, MismatchError: as ``show``.
    """
    found = the_run(run, library)
    total = sum(path.stat().st_size for _, path in found.numbered)
    done, checked = 0, list[SaveReport]()
    for step, path in found.numbered:
        checked.append(check_save(path, step))
        done += checked[-1].nbytes
        progress(Progress("verify", done, total))
    return tuple(checked)


def check_save(path: Path, step: int) -> SaveReport:
    """Read one save whole."""
    one = saves.look(path, step)
    report = _save(one)
    if report.fault:
        return report
    try:
        with OpenSave(path) as opened_save:
            opened_save.verify()
    except (MemcardError, OSError) as error:
        return SaveReport(step, path, report.nbytes, report.time, report.metrics, fault=str(error))
    return SaveReport(step, path, report.nbytes, report.time, report.metrics, checked=True)


def forget(run: str, *, library: str | Path | None = None) -> Path:
    """Take a run out of the list; its folder and its saves stay. Return the folder.

    Raises:
        NotFoundError, MismatchError: as ``show``.
    """
    home = home_of(library)
    found = find.one(home, run)
    known = [t for t in trainings.every(home) if t.folder == found.folder]
    if not known or not exists(home):
        raise NotFoundError(
            f"{run}: the library was never told of this run, so there is nothing to forget."
        )
    with Writer(home) as writer, writer.commit():
        for one in known:
            trainings.forget(writer, one.id)
    return found.folder
