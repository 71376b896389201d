"""Teach a checkpoint a folder of pictures: `memcard finetune`, which goes on where it stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from memcard.core.extras import require
from memcard.core.progress import Listener, Notice, silent
from memcard.errors import UsageError
from memcard.jobs._run_names import RUNS
from memcard.jobs.resolve import digest, label, locate, resolve
from memcard.store.layout import default_home

if TYPE_CHECKING:
    from memcard.jobs._finetune_models import Base
    from memcard.jobs._finetune_plan import Plan
    from memcard.jobs._finetune_run import Task
    from memcard.training.finetune.folder import Folder
    from memcard.training.finetune.loop import Moment
    from memcard.training.finetune.settings import Settings


_OTHERS: Final = (".ckpt", ".pt", ".pth", ".bin", ".gguf", ".json")


@dataclass(frozen=True, slots=True)
class Tuned:
    """What a run made.

    Attributes:
        files: the result; a LoRA also as PEFT's folder, if asked for. ``NAME.preview.png`` lies beside.
        name: in the library; None if it is not there.
        plan: what was done.
        steps: done in all.
        loss: running average at the end.
        first_loss: running average at the beginning.
        seconds: of this call.
        sheet: PNG with a row of pictures for each sheet.
        report: HTML page.
        license: what the result may be used under, in one word, worked out from base and data.
        notes: what a careful user should know.
    """

    files: tuple[Path, ...]
    name: str | None
    plan: Plan
    steps: int
    loss: float
    first_loss: float
    seconds: float
    sheet: Path | None
    report: Path
    license: str
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        return {
            **{key: getattr(self, key) for key in ("name", "steps", "license")},
            "loss": round(self.loss, 5),
            "first_loss": round(self.first_loss, 5),
            "seconds": round(self.seconds, 1),
            "files": [str(path) for path in self.files],
            "sheet": None if self.sheet is None else str(self.sheet),
            "report": str(self.report),
            "notes": list(self.notes),
            "plan": self.plan.to_dict(),
        }


def finetune(
    base: str | Path,
    data: str | Path,
    out: str | Path,
    *,
    run_dir: str | Path | None = None,
    restart: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    epochs: float | None = None,
    prediction: str | None = None,
    device: str = "auto",
    recursive: bool = True,
    skip_bad: bool = False,
    data_license: str | None = None,
    lora_format: str = "kohya",
    library: bool = True,
    save_every: int | None = None,
    sheets: bool = True,
    progress: Listener = silent,
    watch: Callable[[Moment], None] = lambda moment: None,
    **settings: Any,
) -> Tuned | Plan:
    """Train ``base`` on the pictures of a folder; called again with the same arguments it goes on.

    Started in several processes by ``accelerate launch`` or ``torchrun``, they train together; the first
    of them returns the result, the others the plan.

    Args:
        base: a whole checkpoint of SD 1, 2, XL or the starter, for a LoRA also of Flux.1 or SD 3: path or name.
        data: folder of pictures with captions; see ``training.finetune.folder``.
        out: file to write (.safetensors), also its name in the library.
        run_dir: folder for saves, sheets and the report; None: ``runs/NAME`` in the library's folder.
        restart: forget the saves of an earlier run of this name.
        overwrite: replace ``out`` if it is there and not of this run.
        dry_run: return the plan; nothing is computed or written.
        epochs: in place of ``steps``.
        prediction: ``epsilon`` or ``v_prediction`` where the file does not tell.
        device: ``auto``, ``cpu``, ``cuda``, ``mps``.
        recursive: look into the folders of ``data``.
        skip_bad: leave out pictures that cannot be read.
        data_license: what the pictures are under.
        lora_format: ``kohya``, ``peft`` or ``both``.
        library: enter the result.
        save_every: steps between saves; None: as often as costs about one percent.
        sheets: paint the prompts while it learns.
        progress: hears how far it is.
        watch: is given every step's loss.
        settings: by the names of ``training.finetune.settings.Settings``; what is not said suits the family.

    Raises:
        UnsupportedError: the base is of no family that can be trained here.
        MismatchError: an earlier run of this name had other settings, data or base; lists all of them.
        UsageError: a setting is out of its range, or ``out`` is there already.
        CorruptError: pictures cannot be read; lists all of them.
        LockedError: another process trains in the folder.
        KeyboardInterrupt, SystemExit: a signal came; everything is saved.
    """
    start = time.perf_counter()
    require("train", what="Fine-tuning")
    from memcard.generation.load import device_named
    from memcard.jobs import _finetune_run as runs
    from memcard.jobs._finetune_finish import finish
    from memcard.jobs._finetune_result import LORA_FORMATS
    from memcard.training.finetune.crew import Crew, joined

    if lora_format not in LORA_FORMATS:
        raise UsageError(f"LoRA format {lora_format!r}; it can be {', '.join(LORA_FORMATS)}.")
    with joined(device) as own, _open(base, prediction) as opened:
        crew = Crew()
        if crew.rank:
            progress = silent
        target = _target(out)
        run = Path(run_dir).expanduser() if run_dir else default_home() / RUNS / target.stem
        folder = _folder(
            data, recursive=recursive, skip_bad=skip_bad, decoded=_begun(run), progress=progress
        )
        where = str(device_named(own))
        chosen = _settings(opened, folder, settings, epochs, where)
        task = _task(opened, base, folder, run, target, chosen, where, data_license, progress)
        done = runs.check(task, restart=restart, overwrite=overwrite, library=library)
        plan = runs.plan(task, done)
        if dry_run:
            return plan
        _begin(task, plan, restart=restart, progress=progress)
        trained = runs.train(
            task,
            save_every=save_every,
            library=library,
            sheets=sheets,
            progress=progress,
            watch=watch,
        )
        if crew.rank:
            return plan
        made = finish(task, trained, form=cast("Any", lora_format), library=library)
        return Tuned(
            *(made.files, made.name, plan, chosen.steps, made.loss, made.first_loss),
            *(time.perf_counter() - start, made.sheet, made.report, made.license, made.notes),
        )


def _begin(task: Task, plan: Plan, *, restart: bool, progress: Listener) -> None:
    """Clear the run's folder if that was asked for, before any process uses it; say what is to be known."""
    from memcard.jobs._finetune_run import forget
    from memcard.training.finetune.crew import Crew

    crew = Crew()
    crew.wait()
    if restart and crew.rank == 0:
        forget(task)
    crew.wait()
    for note in plan.notes:
        progress(Notice(note))


@contextmanager
def _open(base: str | Path, prediction: str | None) -> Iterator[Base]:
    from memcard.jobs._finetune_models import read_base

    checkpoint = resolve(base)
    try:
        yield read_base(checkpoint, label(str(locate(base))), prediction=prediction)
    finally:
        checkpoint.close()


def _target(out: str | Path) -> Path:
    """Return the file of the result; a name may have dots, as ``fox-v1.5``."""
    path = Path(out).expanduser()
    if path.suffix in _OTHERS:
        raise UsageError(
            f"{out}: the result is a .safetensors file. Name it so, or give the name alone."
        )
    return path if path.suffix == ".safetensors" else path.with_name(f"{path.name}.safetensors")


def _begun(run: Path) -> bool:
    """Tell whether a run has saves: then its pictures were decoded before."""
    from memcard.training.saves import numbered

    return bool(numbered(run))


def _folder(
    data: str | Path, *, recursive: bool, skip_bad: bool, decoded: bool, progress: Listener
) -> Folder:
    from memcard.training.finetune.folder import read_folder

    return read_folder(
        data,
        recursive=recursive,
        skip_bad=skip_bad,
        # bad pictures are left out again only if they are decoded again
        known=lambda sha256: decoded and not skip_bad,
        progress=progress,
    )


def _settings(
    base: Base, folder: Folder, user: Mapping[str, Any], epochs: float | None, device: str
) -> Settings:
    from memcard.jobs._finetune_plan import settings_for, with_epochs
    from memcard.training.finetune.crew import Crew
    from memcard.training.finetune.lessons import Cut

    found = settings_for(base, folder, user, epochs=epochs, device=device.partition(":")[0])
    if epochs is None:
        return found
    batches = Cut.of(folder, found, base.step).order.per_epoch / Crew().world
    return with_epochs(found, epochs, batches, user)


def _task(
    opened: Base,
    base: str | Path,
    folder: Folder,
    run: Path,
    target: Path,
    settings: Settings,
    device: str,
    data_license: str | None,
    progress: Listener,
) -> Task:
    from memcard.jobs._finetune_run import Task
    from memcard.training.finetune.crew import Crew

    path = locate(base)
    return Task(
        *(opened, path, label(str(path)), digest(path, progress), folder, run, target, settings),
        device=device,
        data_license=data_license,
        world=Crew().world,
    )
