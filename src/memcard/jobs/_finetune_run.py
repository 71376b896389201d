"""One run of ``memcard finetune``: what came before, its plan, its training."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from memcard.core.digest_cache import cache_folder
from memcard.core.progress import Listener, Notice, Progress
from memcard.errors import MemcardError, MismatchError, NotFoundError, UsageError
from memcard.formats import open_file
from memcard.jobs._finetune_flow import built, painter_of
from memcard.jobs._finetune_models import Base
from memcard.jobs._finetune_plan import Plan, adapter_size, memory
from memcard.jobs._finetune_sheet import Painter, Sheets
from memcard.jobs.checkpointer import Checkpointer
from memcard.store import places, refs
from memcard.store.layout import Layout, default_home, exists
from memcard.training import run_log, saves
from memcard.training._folder import RunFolder
from memcard.training.decays import WarmUp
from memcard.training.ema import EMA
from memcard.training.finetune.adapters import Adapter, choose
from memcard.training.finetune.cache import Cache
from memcard.training.finetune.crew import Crew
from memcard.training.finetune.folder import Folder
from memcard.training.finetune.lessons import Cut, Lessons
from memcard.training.finetune.loop import Loop, Moment, optimizer, running
from memcard.training.finetune.model import Model
from memcard.training.finetune.settings import Settings, differences
from memcard.training.keep import Keep

JOB: Final = "finetune"
_MEASURED: Final = 5  # the step a forecast stands on
_LONG: Final = 30.0  # seconds; below this nobody wants to be told
_SAVES: Final = 2
_SHEET_SEED: Final = 1
_SHOWN: Final = 3


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be done, as it was asked for.

    Attributes:
        base: opened.
        base_path: its file.
        base_name: as it may be shared.
        sha256: of the base.
        folder: the data.
        run: folder of the run.
        out: file of the result.
        settings: of the run.
        device: where to compute.
        data_license: what the pictures are under; None if the user does not say.
        world: processes that train together.
    """

    base: Base
    base_path: Path
    base_name: str
    sha256: str
    folder: Folder
    run: Path
    out: Path
    settings: Settings
    device: str
    data_license: str | None
    world: int = 1

    def record(self) -> dict[str, Any]:
        """Return what the run is known by when it goes on: plain JSON."""
        return {
            "job": JOB,
            "base": {"name": self.base_name, "sha256": self.sha256},
            "data": {"name": self.folder.path.name, "fingerprint": self.folder.fingerprint},
            "options": {**self.settings.to_dict(), "processes": self.world},
        }


@dataclass(frozen=True, slots=True)
class Trained:
    """What the training left in memory.

    Attributes:
        learnt: the weights.
        average: of them, if one was kept.
        losses: (step, loss) of all steps, earlier calls included.
        run: id of the run.
    """

    learnt: nn.Module
    average: EMA | None
    losses: tuple[tuple[int, float], ...]
    run: str

    def best(self) -> AbstractContextManager[Any]:
        """Return the context in which ``learnt`` has the weights to keep."""
        return nullcontext() if self.average is None else self.average.swapped_in()


def check(task: Task, *, restart: bool, overwrite: bool, library: bool) -> int:
    """Compare with an earlier run of the folder; return how many steps it did.

    Raises:
        MismatchError: it had other settings, data or base; lists all of them.
        UsageError: the result is there already and not of this run.
    """
    earlier = None if restart else run_log.read_run(task.run)
    if earlier is not None and saves.numbered(task.run):
        _refuse_other(task, earlier.settings)
    _refuse_output(task, None if earlier is None else earlier.id, overwrite=overwrite)
    if library and not overwrite:
        _refuse_name(task)
    found = [] if restart else saves.numbered(task.run)
    return found[-1][0] if found else 0


def forget(task: Task) -> None:
    """Remove what an earlier run left in the folder, and nothing else.

    Raises:
        LockedError: it still runs.
    """
    if not task.run.is_dir():
        return
    RunFolder(task.run, Keep(), {}).close()  # refuses if it is held
    gone = [path for _, path in saves.numbered(task.run)]
    gone += [task.run / name for name in (run_log.RUN, run_log.LOG, "report.html", "sheet.png")]
    gone += sorted((task.run / "sheets").glob("step-*.png"))
    for path in gone:
        path.unlink(missing_ok=True)


def plan(task: Task, start: int) -> Plan:
    """Say what will be done; nothing is built or computed."""
    settings, base, folder = task.settings, task.base, task.folder
    cut = Cut.of(folder, settings, base.step)
    learning = adapter_size(base, settings)
    origins = [example.origin for example in folder.examples]
    latent = sum(4 * c.bucket[0] * c.bucket[1] // base.factor**2 for c in cut.crops)
    whole = sum(spec.nbytes for spec in base.source.specs.values())
    return Plan(
        *(task.base_name, base.family, base.prediction, settings.kind),
        *(str(folder.path), folder.fingerprint, len(folder.examples)),
        captions={o: origins.count(o) for o in dict.fromkeys(origins)},
        buckets={f"{w}x{h}": n for (w, h), n in cut.buckets().items()},
        settings=settings,
        batches=cut.order.per_epoch,
        epochs=round(settings.steps * settings.accumulate * task.world / cut.order.per_epoch, 2),
        learning=learning,
        memory=memory(base, settings, learning),
        disk={
            "saves": (_SAVES + 1) * learning * (16 if settings.ema is not None else 12),
            "result": learning * 2 if settings.rank else whole,
            "cache": latent * base.channels * (2 if settings.flip else 1),
        },
        run=task.run,
        out=task.out,
        start=start,
        device=task.device,
        notes=(*folder.notes, *cut.notes()),
    )


def _refuse_other(task: Task, before: Mapping[str, Any]) -> None:
    now = task.record()
    found = []
    for what in ("base", "data"):
        old = before.get(what, {})
        if old and {**old, "name": ""} != {**now[what], "name": ""}:
            found.append(
                f"the {what} was {old.get('name')!r} and is {now[what]['name']!r}, with other contents."
            )
    options = before.get("options", {})
    found += differences(options, task.settings)
    if options.get("processes", 1) != task.world:
        found.append(f"there were {options.get('processes', 1)} processes and are {task.world}.")
    if found:
        raise MismatchError(
            f"{task.run}: holds an earlier run of this name that was told otherwise: {' '.join(found)} "
            "Give the same arguments to go on with it, another --out or --run-dir to begin a second run, "
            "or --restart to forget the first."
        )


def _refuse_output(task: Task, run: str | None, *, overwrite: bool) -> None:
    out = task.out
    if not out.parent.is_dir():
        raise NotFoundError(f"{out.parent}: no such folder. Make it first.")
    if not out.exists():
        return
    if out.samefile(task.base_path):
        raise UsageError(f"{out}: is the base itself. Choose another name.")
    if not overwrite and (run is None or _run_of(out) != run):
        raise UsageError(
            f"{out}: is there already. Choose another name, or replace it with --force."
        )


def _refuse_name(task: Task) -> None:
    home, name = Layout(default_home()), refs.default_name(task.out.stem)
    ref = refs.get(home, name) if exists(home) else None
    if ref is not None and places.known(home, task.out.absolute()) != ref.version.sha256:
        raise UsageError(
            f"{name}: is the name of another checkpoint in the library. Choose another --out; or let the name "
            "mean this one with --force; or leave the library out with --no-library."
        )


def _run_of(path: Path) -> str | None:
    """Return the id of the run that made a file; None if it does not say."""
    try:
        opened = open_file(path)
        text = opened.metadata.get("memcard.finetune", "{}")
        opened.close()
        found = json.loads(text)
    except (MemcardError, OSError, ValueError):
        return None
    run = found.get("run") if isinstance(found, dict) else None
    return run if isinstance(run, str) else None


def train(
    task: Task,
    *,
    save_every: int | None,
    library: bool,
    sheets: bool,
    progress: Listener,
    watch: Callable[[Moment], None],
) -> Trained:
    """Train until all steps are done.

    Raises:
        KeyboardInterrupt, SystemExit: a signal came; everything is saved.
    """
    settings = task.settings
    model = built(
        task.base, device=task.device, precision=settings.precision, keep_wide=not settings.rank
    )
    with running(model):
        return _train(task, model, save_every, progress, watch, library=library, sheets=sheets)


def _train(
    task: Task,
    model: Model,
    save_every: int | None,
    progress: Listener,
    watch: Callable[[Moment], None],
    *,
    library: bool,
    sheets: bool,
) -> Trained:
    settings = task.settings
    painter = painter_of(task.base, model, (settings.width, settings.height), settings.precision)
    loop, stepper, trained = _ready(task, model, progress)
    with Checkpointer(
        task.run,
        model=trained.learnt,
        optimizer=stepper,
        ema=trained.average,
        scaler=loop.scaler,
        keep=Keep(last=_SAVES),
        every=save_every,
        settings=task.record(),
        library=None if library else False,
    ) as saver:
        start = saver.resume()
        gallery = _Gallery(task, painter if sheets else None, trained, start)
        gallery.show(start)
        clock = _Clock(settings.steps, progress)
        with _saying_where(task, progress):
            for moment in loop.run(start):
                saver.step(moment.step, {"loss": moment.loss, "lr": moment.lr, "norm": moment.norm})
                watch(moment)
                clock.tick(moment)
                gallery.show(moment.step)
        if start < settings.steps:
            saver.save(wait=True)
    return _logged(task, trained)


def _ready(
    task: Task, model: Model, progress: Listener
) -> tuple[Loop, torch.optim.Optimizer, Trained]:
    """Unfreeze what learns, compute what is computed once, and put the loop together."""
    settings = task.settings
    learnt = choose(
        model,
        adapter=_adapter(settings),
        text_encoder=settings.text_encoder,
        checkpointing=settings.checkpointing,
        parts=settings.parts,
        seed=settings.seed,
    )
    lessons = _lessons(task, model, progress)
    stepper = optimizer(learnt, settings)
    average = None if settings.ema is None else EMA(learnt, WarmUp(settings.ema))
    loop = Loop(model, learnt, lessons, settings, stepper, average)
    return loop, stepper, Trained(learnt, average, (), "")


@contextmanager
def _saying_where(task: Task, progress: Listener) -> Iterator[None]:
    """Tell a user who stops a run where it will go on."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        if found := saves.numbered(task.run):
            step, of = found[-1][0], task.settings.steps
            progress(
                Notice(f"Saved after step {step} of {of}. The same command goes on from there.")
            )
        raise


def _adapter(settings: Settings) -> Adapter | None:
    if not settings.rank:
        return None
    return Adapter(settings.rank, settings.alpha, settings.targets, settings.dora)


def _lessons(task: Task, model: Model, progress: Listener) -> Lessons:
    kept = cache_folder()
    cache = Cache(None if kept is None else kept / JOB)
    cut = Cut.of(task.folder, task.settings, task.base.step)
    lessons = Lessons(model, cut, task.settings, cache)
    crew = Crew()
    if crew.rank == 0:
        lessons.prepare(progress)
        if cache.written:
            progress(Notice(_kept_text(cache)))
    crew.wait()
    if crew.rank:
        lessons.prepare()  # all of it is in the cache now
    for text in lessons.cut()[:_SHOWN]:
        progress(Notice(f"A caption is too long for the text encoder; not read: {text}."))
    return lessons


def _kept_text(cache: Cache) -> str:
    return (
        f"Latents and prompts are kept in {cache.folder}: {cache.written / 1e6:.1f} MB of this data, "
        f"{cache.size() / 1e6:.1f} MB in all. It may be emptied at any time."
    )


def _logged(task: Task, trained: Trained) -> Trained:
    """Return it with the losses of the whole run, as its log has them."""
    found = run_log.read_run(task.run)
    log = run_log.read_log(task.run)
    losses = tuple((p.step, p.metrics["loss"]) for p in log if "loss" in p.metrics)
    return replace(trained, losses=losses, run="" if found is None else found.id)


class _Gallery:
    """Paints a strip where one is due and not there."""

    def __init__(self, task: Task, painter: Painter | None, trained: Trained, start: int) -> None:
        self._settings, self._trained = task.settings, trained
        self._sheets = Sheets(task.run / "sheets", task.settings.prompts)
        first = Crew().rank == 0
        self._painter = painter if first else None
        if first:
            self._sheets.forget_after(start)

    def show(self, step: int) -> None:
        every, last = self._settings.sheet_every, self._settings.steps
        due = step in (0, last) or (every and step % every == 0)
        if not due or self._painter is None or self._sheets.has(step):
            return
        with self._trained.best():
            images = self._painter.paint(self._settings.prompts, _SHEET_SEED)
        self._sheets.keep(step, images)


class _Clock:
    """Reports steps, and says once how long it will take."""

    def __init__(self, steps: int, progress: Listener) -> None:
        self._steps, self._progress, self._seconds = steps, progress, list[float]()

    def tick(self, moment: Moment) -> None:
        self._progress(Progress("training", moment.step, self._steps, "steps"))
        self._seconds.append(moment.seconds)
        if len(self._seconds) != _MEASURED:
            return
        left = min(self._seconds) * (self._steps - moment.step)
        if left > _LONG:
            shown = f"{left:.0f} seconds" if left < 90 else f"{left / 60:.0f} minutes"
            self._progress(Notice(f"This will take about {shown} on this machine."))
