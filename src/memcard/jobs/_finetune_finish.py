"""What a run ends in: the result, its card, sheet and report, and its place in the library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from memcard.jobs._finetune_report import report
from memcard.jobs._finetune_result import LoraFormat, Origin, metadata_of, write_lora, write_tuned
from memcard.jobs._finetune_run import Task, Trained
from memcard.jobs._finetune_sheet import Sheets
from memcard.jobs.add import add
from memcard.jobs.license import license_of
from memcard.jobs.resolve import card_of
from memcard.store import refs
from memcard.store.layout import Layout, default_home
from memcard.training.finetune.loop import smoothed

_DORA: Final = "diffusers leaves out the lengths of a DoRA in kohya's names. For it: memcard lora convert NAME --to diffusers."

_SD3: Final = "diffusers does not read kohya's names of Stable Diffusion 3. For it: memcard lora convert NAME --to diffusers."


@dataclass(frozen=True, slots=True)
class Finished:
    """What was written: see ``jobs.finetune.Tuned``."""

    files: tuple[Path, ...]
    name: str | None
    loss: float
    first_loss: float
    sheet: Path | None
    report: Path
    license: str
    notes: tuple[str, ...]


def finish(task: Task, trained: Trained, *, form: LoraFormat, library: bool) -> Finished:
    """Write the result, its card, sheet and report, and enter it into the library."""
    settings = task.settings
    smooth = smoothed(loss for _, loss in trained.losses)
    first, last = (smooth[min(9, len(smooth) - 1)], smooth[-1]) if smooth else (0.0, 0.0)
    card = card_of(task.base.source.metadata)
    said = card.get("license") or task.base.source.metadata.get("modelspec.license") or "unknown"
    origin = Origin(
        *(task.base_name, task.sha256, str(said), task.folder.path.resolve().name),
        *(task.folder.fingerprint, task.data_license, len(task.folder.examples), trained.run),
    )
    facts = {"name": task.out.stem, "steps": settings.steps, "loss": round(last, 5)}
    metadata = metadata_of(task.base, settings, origin, **facts)
    with trained.best():
        files, notes = (
            write_lora(task.base_path, trained.learnt, settings, task.out, metadata, form=form)
            if settings.rank
            else write_tuned(task.base, trained.learnt, task.out, metadata)
        )
    sheets = Sheets(task.run / "sheets", settings.prompts)
    sheet = sheets.page(task.run / "sheet.png") if sheets.steps() else None
    if sheets.has(settings.steps):
        sheets.lay_beside(settings.steps, task.out)
    page = report(
        task.run / "report.html",
        title=task.out.stem,
        subtitle=f"{settings.kind} of {task.base_name}, {len(task.folder.examples)} pictures, "
        f"{settings.steps} steps",
        points=trained.losses,
        smooth=smooth,
        facts={"data": origin.data, "fingerprint": origin.fingerprint, **settings.to_dict()},
        sheet=sheet,
        notes=(*task.folder.notes, *notes),
    )
    if settings.dora and form != "peft":
        notes = (*notes, _DORA)
    if settings.rank and task.base.family == "sd3" and form != "peft":
        notes = (*notes, _SD3)
    if task.data_license is None:
        notes = (*notes, "What the pictures are under is not known; --data-license says it.")
    name = _entered(task, files) if library else None
    license_ = license_of(files[0]).verdict.license if files[0].is_file() else str(said)
    return Finished(tuple(files), name, last, first, sheet, page, license_, notes)


def _entered(task: Task, files: list[Path]) -> str | None:
    """Let the library know the result; None for a folder of PEFT's alone."""
    if not files[0].is_file():
        return None
    name = refs.default_name(task.out.stem)
    return add(Layout(default_home()), [files[0]], name=name, update=True)[0].name
