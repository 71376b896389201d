"""The page of a run: its curve, its metrics and its saves in one HTML file that needs no network."""

from __future__ import annotations

import time
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from memcard.errors import UsageError
from memcard.jobs._finetune_report import report

if TYPE_CHECKING:
    from memcard.jobs.runs import RunShown

_KEEP: Final = 0.95  # of the running average


def page(shown: RunShown, path: Path, *, overwrite: bool = False) -> Path:
    """Write the page.

    Raises:
        UsageError: the file is there already.
    """
    if path.exists() and not overwrite:
        raise UsageError(f"{path}: is there already. Choose another name, or use --force.")
    run = shown.report
    points = [(step, value) for step, value in run.curve if isfinite(value)]
    sheet = run.folder / "sheet.png"
    options = shown.settings.get("options")
    settings = {k: v for k, v in shown.settings.items() if k != "options"}
    facts: dict[str, Any] = {"run": run.id, "state": run.state, "steps done": run.step}
    facts |= settings | (options if isinstance(options, dict) else {})
    return report(
        path,
        title=run.name,
        subtitle=f"{run.metric or 'nothing'} over {run.step} steps, as of {time.strftime('%Y-%m-%d %H:%M')}",
        points=points,
        smooth=_smooth([value for _, value in points]),
        facts=facts,
        sheet=sheet if sheet.is_file() else None,
    )


def _smooth(values: list[float]) -> list[float]:
    total = weight = 0.0
    found = []
    for value in values:
        total, weight = _KEEP * total + (1 - _KEEP) * value, _KEEP * weight + 1 - _KEEP
        found.append(total / weight)
    return found
