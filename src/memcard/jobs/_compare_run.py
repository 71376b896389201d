"""Paint the cells that are not there yet, those of one checkpoint together, and keep each at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final, TypeAlias

from memcard.core.progress import Event, Listener, Notice, Progress
from memcard.jobs._compare_cells import Plan, Planned, Wish
from memcard.jobs._compare_store import Store
from memcard.jobs._compare_time import Timer, about, work
from memcard.jobs._generate_clock import ESTIMATE
from memcard.jobs._pictures import Result

Painter: TypeAlias = Callable[..., Result]

_LONG: Final = 20.0  # seconds; below this nobody wants to be told how long it takes
_SOON: Final = 60.0  # seconds until it is said again; then twice as long each time
_LEARN: Final = 3  # steps of the pictures a dry run learns from
_QUICK: Final = (
    10.0  # seconds; after a first picture this fast a second one tells what a warm start takes
)


@contextmanager
def painter(wish: Wish) -> Iterator[Painter]:
    """Give what makes pictures; what it loaded for one cell it keeps for the next."""
    from memcard.jobs._generate_models import Models
    from memcard.jobs.generate import run

    models = Models(wish.device, wish.dtype)
    try:
        yield partial(
            run, models=models, text_encoders=wish.text_encoders, embeddings=wish.embeddings
        )
    finally:
        models.close()


def paint(cell: Planned, paint_one: Painter, progress: Listener) -> Result:
    """Make the picture of one cell, with the settings as the user said them, so that origins stay true."""
    return paint_one(
        *(cell.prompt, cell.model.ref, [(one.ref, strength) for one, strength in cell.loras]),
        seed=cell.seed,
        vae=cell.vae.ref if cell.vae else None,
        progress=progress,
        **cell.user,
    )


def run_cells(plan: Plan, missing: Sequence[Planned], store: Store, progress: Listener) -> Timer:
    """Paint ``missing`` in this order; each is in the store as soon as it is done.

    What is done when it is interrupted stays, and the same comparison goes on there.
    """
    timer = Timer(store.rates(), plan.wish.device, plan.wish.dtype)
    teller = _Teller(progress, sum(work(cell) for cell in missing))
    progress(Progress("pictures", 0, len(missing), "steps"))
    teller.tell(timer, missing)
    done = 0
    try:
        with painter(plan.wish) as paint_one:
            for cell in missing:
                _one(cell, paint_one, store, timer, teller)
                done += 1
                progress(Progress("pictures", done, len(missing), "steps"))
                teller.tell(timer, missing[done:])
    except BaseException:
        if done and store.lasting:
            progress(Notice(f"{done} of {len(missing)} pictures are made and kept; the same command goes on there."))  # fmt: skip
        raise
    finally:
        store.keep_rates(timer.lasting())
    return timer


def _one(cell: Planned, paint_one: Painter, store: Store, timer: Timer, teller: _Teller) -> None:
    start = time.perf_counter()
    teller.begin(work(cell))
    result = paint(cell, paint_one, teller.hear)
    timer.learn(cell, teller.marks, start=start, loading=result.load_seconds)
    store.put(cell.key, result)
    teller.end()


def measure(plan: Plan, missing: Sequence[Planned], store: Store, progress: Listener) -> Timer:
    """Take a few steps with each kind of model whose speed is not known; no cell is made."""
    timer = Timer(store.rates(), plan.wish.device, plan.wish.dtype)
    for cell in missing:
        if timer.knows(cell):
            continue
        progress(Notice(f"Measuring the speed of {cell.model.label}."))
        assert cell.settings is not None, "the plan looked"  # noqa: S101
        short = cell.shortened(min(_LEARN, cell.settings.steps))
        with painter(plan.wish) as paint_one:
            if _measured(short, paint_one, timer) < _QUICK:
                _measured(short, paint_one, timer)
    store.keep_rates(timer.lasting())
    return timer


def _measured(cell: Planned, paint_one: Painter, timer: Timer) -> float:
    """Paint a cell for its time alone; return the seconds it took without loading."""
    start, marks = time.perf_counter(), list[float]()

    def hear(event: Event) -> None:
        if isinstance(event, Progress) and event.phase == "pictures":
            marks.append(time.perf_counter())

    result = paint(cell, paint_one, hear)
    timer.learn(cell, marks, start=start, loading=result.load_seconds)
    return time.perf_counter() - start - result.load_seconds


class _Teller:
    """Turns the progress of each picture into that of all of them, and says how long it takes."""

    def __init__(self, progress: Listener, total: float) -> None:
        self._progress, self._total = progress, max(total, 1.0)
        self._before = self._units = 0.0
        self._heard: set[str] = set()
        self._said_at: float | None = None
        self._wait = _SOON
        self.marks: list[float] = []

    def begin(self, units: float) -> None:
        """Start a picture of so many units of work."""
        self._units, self.marks = units, []

    def hear(self, event: Event) -> None:
        """Pass on what concerns all: each notice once, steps as a share of everything."""
        match event:
            case Notice(text):
                if text not in self._heard and not text.startswith(ESTIMATE):  # we have our own
                    self._heard.add(text)
                    self._progress(event)
            case Progress("pictures", done, total):
                self.marks.append(time.perf_counter())
                self._show(self._before + self._units * done / max(total, 1))
            case _:
                self._progress(event)

    def end(self) -> None:
        """Finish the picture."""
        self._before += self._units
        self._show(self._before)

    def _show(self, units: float) -> None:
        self._progress(Progress("steps", round(units), round(self._total), "steps"))

    def tell(self, timer: Timer, left: Sequence[Planned]) -> None:
        """Say how many pictures are left and how long they take, if it is long, now and then."""
        now = time.perf_counter()
        seconds = timer.seconds(left)
        if seconds is None or seconds < _LONG:
            return
        if self._said_at is not None:
            if now - self._said_at < self._wait:
                return
            self._wait *= 2
        self._said_at = now
        count = f"{len(left)} pictures" if len(left) > 1 else "1 picture"
        self._progress(Notice(f"{count} to make: {about(seconds)}."))
