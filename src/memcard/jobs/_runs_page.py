"""The page of a run: its curve, its metrics and its saves in one HTML file that needs no network."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from memcard.errors import UsageError
from memcard.jobs._finetune_report import report
from memcard.jobs._loss_curve import finite

if TYPE_CHECKING:
    from memcard.jobs.runs import RunShown

_EVENTS: Final = 20  # the latest ones


def page(shown: RunShown, path: Path, *, overwrite: bool = False) -> Path:
    """Write the page.

    Raises:
        UsageError: the file is there already.
    """
    refuse_taken(path, overwrite=overwrite)
    run = shown.report
    sheet = run.folder / "sheet.png"
    of = f" of {run.steps:,}" if run.steps else ""
    return report(
        path,
        title=run.name,
        subtitle=f"{run.state} after {run.step:,}{of} steps, as of {_moment(time.time())}",
        points=finite(run.curve),
        facts=_facts(shown),
        measured=run.metric or "",
        sheet=sheet if sheet.is_file() else None,
        tables=(
            ("Metrics", ("metric", "first", "last", "lowest", "highest"), _metrics(shown)),
            ("Saves", ("step", "MB", "taken", "metrics", ""), _saves(shown)),
            ("What happened", ("when", "what", "step", ""), _events(shown)),
        ),
        notes=tuple(filter(None, (run.note, SAMPLED if shown.sampled else ""))),
    )


SAMPLED: Final = (
    "The log is long, so not every line of it was parsed: the curve, the lowest and the highest values are of "
    "samples from all over it."
)


def refuse_taken(path: Path, *, overwrite: bool) -> None:
    """Do nothing if a file may be written.

    Raises:
        UsageError: it is there, and ``overwrite`` is not set.
    """
    if path.exists() and not overwrite:
        raise UsageError(f"{path}: is there already. Choose another name, or use --force.")


def _facts(shown: RunShown) -> dict[str, Any]:
    words = shown.command.get("launcher") or shown.command.get("argv") or ()
    options = shown.settings.get("options")
    settings = {k: v for k, v in shown.settings.items() if k != "options"}
    return {
        "run": shown.report.id,
        "ended by": shown.report.why,
        "command": shlex.join(map(str, words)),
        **settings,
        **(options if isinstance(options, dict) else {}),
    }


def _metrics(shown: RunShown) -> list[list[str]]:
    return [[name, *map(_number, row)] for name, row in shown.metrics.items()]


def _saves(shown: RunShown) -> list[list[str]]:
    return [
        [
            f"{save.step:,}",
            f"{save.nbytes / 1e6:.3g}",
            _moment(save.time) if save.time else "",
            ", ".join(f"{name} {_number(value)}" for name, value in save.metrics),
            "best" if save.best else save.fault,
        ]
        for save in shown.saves
    ]


def _events(shown: RunShown) -> list[list[str]]:
    return [
        [_moment(float(event["time"])), event["event"], _step(event), _why(event)]
        for event in shown.events[-_EVENTS:]
    ]


def _step(event: Mapping[str, Any]) -> str:
    step = event.get("step")
    return f"{step:,}" if isinstance(step, int) else ""


def _why(event: Mapping[str, Any]) -> str:
    if event["event"] == "waited":
        return f"{event.get('seconds')} s for the save before"
    return str(event.get("signal") or event.get("error") or event.get("name") or "")


def _number(value: float) -> str:
    return f"{value:.4g}"


def _moment(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
