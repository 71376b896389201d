"""Saves of a training that resume exactly: ``Checkpointer``.

The state is copied between two steps into a buffer (``snapshot``), written and hashed behind the training's
back (``_writer``), and read back only after every byte was compared with its digest (``saves``).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

from memcard.errors import DiskError, UsageError
from memcard.training._background import Background, OnSaved, say
from memcard.training._feed import Feed
from memcard.training._folder import RunFolder, gigabytes
from memcard.training._pace import Pace
from memcard.training._ranks import Ranks
from memcard.training._resume import Resumed, newest
from memcard.training._signals import Signals
from memcard.training._state import State
from memcard.training._trainers import ForTrainers
from memcard.training._tree import to_bytes
from memcard.training._turn import Turn, mark
from memcard.training._updates import Updates
from memcard.training._writer import Job
from memcard.training.keep import Keep
from memcard.training.randomness import RandomState, gather
from memcard.training.run_log import RunLog
from memcard.training.saves import OpenSave, Save, made_by, make_header, name_of
from memcard.training.snapshot import Snapshot

Metrics: TypeAlias = Mapping[str, float]
_MOST_SAID: Final = 500  # characters of an error in the log


class Checkpointer(ForTrainers):
    """Saves a training so that it resumes exactly, at a cost of about one percent.

    ::

        ck = memcard.Checkpointer("runs/a", model=model, optimizer=optimizer, data=sampler)
        ck.resume()
        for step, batch in ck.loop(loader, steps=10_000):
            ...
            optimizer.step()
            ck.step(step)
        ck.close()

    The random numbers of python, numpy, torch and every accelerator are always in. Each of ``model`` to
    ``extra`` is one object, or a dict or list of objects; all but models and optimizers need
    ``state_dict()`` of plain values and tensors, and ``load_state_dict()``.

    Args:
        directory: of this run; it is made. One process at a time trains in it.
        model: modules; DDP and ``torch.compile`` leave no trace in the names.
        optimizer: its state is kept by the names of the parameters.
        scheduler: of the learning rate.
        ema: averages of the weights.
        scaler: of losses, for half precision.
        data: position in the data: an ``ExactSampler``, a ``StatefulDataLoader``, or anything like them.
        extra: whatever else has a state.
        keep: which saves stay.
        every: save every so many steps. None: as often as costs about one percent of the time, at least
            1 second and at most 15 minutes apart.
        settings: plain JSON that ``memcard runs`` shows.
        signals: save and end on SIGTERM, SIGINT and SIGUSR1.
        on_saved: called in the background with each save that is durable; what it raises is only said.
        on_removed: called in the background with each save that ``keep`` let go.

    Attributes:
        folder: of the run.
        resumed: what ``resume`` did; None before.
        stall: seconds the training stood still for the last save.

    Raises:
        UsageError: an object has no state.
        LockedError: another process trains in the folder.
        DiskError: the folder cannot be made.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        model: Any = None,
        optimizer: Any = None,
        scheduler: Any = None,
        ema: Any = None,
        scaler: Any = None,
        data: Any = None,
        extra: Any = None,
        keep: Keep | None = None,
        every: int | None = None,
        settings: Mapping[str, Any] | None = None,
        signals: bool = True,
        on_saved: OnSaved | None = None,
        on_removed: OnSaved | None = None,
    ) -> None:
        given = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "ema": ema}
        self._state = State(given | {"scaler": scaler, "data": data, "extra": extra})
        self.folder = Path(directory).expanduser()
        self.data = data
        self.resumed: Resumed | None = None
        self.stall = 0.0
        self._keep = keep or Keep()
        self._pace, self._ranks = Pace(every), Ranks()
        self._snapshot, self._log = Snapshot(), RunLog(self.folder)
        self._run: RunFolder | None = None
        self._background: Background | None = None
        self._step, self._checked, self._closed = 0, False, False
        self._turn, self._updates = Turn(), Updates(optimizer, say)
        self._taken: tuple[int, Metrics, int, Any] | None = None  # the save of this turn
        self._why: dict[str, str] = {}  # it ended
        self._late = False  # a save waits for gradients to be used
        self._random: RandomState | None = None  # to be put back after the first batch
        self._feed: Feed | None = None
        self._feed_state: Any = None  # of a save; ``loop`` takes it
        if self._ranks.is_first:
            run = self._run = RunFolder(self.folder, self._keep, settings or {})
            self._background = Background(run, self._log, self._pace, on_saved, on_removed)
        self._signals = Signals(say)
        if signals:
            self._signals.install()

    # --- resuming

    def resume(self) -> int:
        """Put everything back as it was in the newest save that is whole; say on stderr which that is.

        Every byte is compared with its digest before anything is changed. A damaged save gets another
        name, and the one before is used.

        Returns:
            The number of finished optimizer steps; 0 if there is no save.

        Raises:
            MismatchError: the objects are not those of the save; names what differs. Nothing was changed.
            IntegrityError: there are saves, and all of them are damaged.
            UnsupportedError: a save is of another version.
        """
        if self._step:
            raise UsageError(f"{self.folder}: resume() comes before the first step().")
        start = time.monotonic()
        skipped: dict[Path, str] = {}
        found = None
        if self._run is not None:
            found = newest(self.folder, self._state.refuse_other, skipped)
            self._set_aside(skipped)
        step = self._ranks.from_first(0 if found is None else found.save.step)
        if step and found is None:
            found = OpenSave(self.folder / name_of(step))  # rank 0 has read all of it
        if found is None:
            self.resumed = Resumed(0)
            return 0
        with found:
            notes = self._load(found)
        seconds = time.monotonic() - start
        self._step = step
        self._pace.begin_at(step)
        self.resumed = Resumed(step, found.save.path, skipped, notes, seconds)
        if self._run is not None:
            self._after_resume(self.resumed, found.save.size)
        return step

    def _set_aside(self, skipped: Mapping[Path, str]) -> None:
        for path, why in skipped.items():
            aside = self._held().set_aside(path)
            say(f"NOT USED: {why} It is {aside.name} now.")

    def _load(self, opened: OpenSave) -> tuple[str, ...]:
        rest, world = self._state.load(opened, self._ranks.rank), self._ranks.world
        self._random, self._feed_state = rest.random, rest.feed
        notes = list(rest.random.put()) if rest.random is not None else []
        if world != opened.save.world:
            notes.append(
                f"The save is of {opened.save.world} processes, this run has {world}: the order of the data "
                "goes on, random numbers of added processes are new ones."
            )
        return tuple(notes)

    def _after_resume(self, report: Resumed, size: int) -> None:
        self._log.event("resumed", step=report.step, skipped=[p.name for p in report.skipped])
        name = report.path.name if report.path is not None else ""
        say(
            f"resuming {self.folder} after step {report.step} ({name}, {gigabytes(size)}, every byte "
            f"checked, {report.seconds:.1f} s)"
        )
        for note in report.notes:
            say(note)
        self._check_space(size)
        self._snapshot.prepare(self._state.packed(self._feed).tensors)

    # --- training

    def loop(
        self,
        loader: Iterable[Any],
        start: int | None = None,
        *,
        steps: int | None = None,
        epochs: int | None = None,
    ) -> Iterator[tuple[int, Any]]:
        """Yield the number of each step and its batch, epoch after epoch, from where the training stood.

        The position in the data moves on as batches are handed out, not as workers fetch them; the random
        numbers are put back after the first batch of a resumed run was fetched.

        Args:
            loader: of batches; for what makes its order exact see ``docs/resume.md``.
            start: finished steps; None for what ``resume`` said.
            steps: end when this many steps are finished, counted from the beginning of the training.
            epochs: end when this many epochs are finished, counted likewise.
        """
        step = self._step if start is None else start
        if (total := _total(loader, steps, epochs)) is not None:
            self.aim(total)
        feed = self._fed(loader)
        for batch in feed.batches(epochs=epochs) if steps is None or step < steps else ():
            step += 1
            random, self._random = self._random, None
            if random is not None:
                random.put()
            with self._turn:
                yield step, batch
            self._end_turn()
            if steps is not None and step >= steps:
                return

    def aim(self, steps: int) -> None:
        """Tell how many steps the whole training has, where ``loop`` does not know; ``memcard runs`` shows it."""
        if self._run is not None:
            with suppress(DiskError):  # it is for people
                self._run.aim(steps)

    def _end_turn(self) -> None:
        """Write the save of this turn; take it again if something has changed after ``step``."""
        taken, self._taken = self._taken, None
        if taken is None:
            return
        step, metrics, signal, before = taken
        (changed,) = self._ranks.most(int(self._mark() != before))
        if changed:
            self._turn.drop()
            self._save(step, metrics)
        self._turn.write()
        self._end_on(signal)

    def _mark(self) -> Any:
        state = self._state if self._ranks.is_first else State({})  # the others save nothing else
        packed = state.packed(self._feed, [RandomState.take()])
        return mark(packed.tree, packed.tensors)

    def _end_on(self, signal: int) -> None:
        if signal:
            self._signals.received = signal
            self.close()

    def _fed(self, loader: Iterable[Any]) -> Feed:
        """Return what serves the batches of a loader: the same one as before, or one that goes on there."""
        if self._feed is None or self._feed.loader is not loader:
            self._feed = Feed(loader, ranks=self._ranks)
        state, self._feed_state = self._feed_state, None
        if state is not None:
            self._feed.load_state_dict(state)
        return self._feed

    @property
    def epoch(self) -> int:
        """Epoch of the batch that ``loop`` yielded last, counted from 0."""
        return 0 if self._feed is None else self._feed.epoch

    @property
    def ends_epoch(self) -> bool | None:
        """Whether that batch was the last of its epoch; None if that cannot be known."""
        return None if self._feed is None else self._feed.ends_epoch

    def step(self, step: int, metrics: Metrics | None = None) -> bool:
        """Note that ``step`` optimizer steps are finished; save if it is time. Call it after the update.

        Args:
            step: higher than the last one.
            metrics: what was measured; ``Keep(best=, by=)`` looks at them, and ``memcard runs`` shows them.

        Returns:
            Whether this step is being saved.

        Raises:
            UsageError: the folder has saves and ``resume`` was not called; or steps go backwards.
            DiskError: three saves in a row could not be written.
            Exception: what else went wrong in an earlier save.
            SystemExit, KeyboardInterrupt: a signal came; everything is saved.
        """
        self._check_step(step)
        measured = {name: float(value) for name, value in (metrics or {}).items()}
        if self._run is not None and measured:
            self._log.metrics(step, measured)
        self._collect()
        wanted = self._run is not None and (self._late or self._is_due(step, measured))
        signal, due = self._ranks.most(self._signals.received or 0, int(wanted))
        saves = self._updates.happened() and bool(due or signal)
        self._late, self._step = bool(due) and not saves, step
        if saves:
            self._save(step, measured)
            if self._turn.inside:
                self._taken = (step, measured, signal, self._mark())
            else:
                self._end_on(signal)
        elif not self._snapshot.specs and self._run is not None:
            # its pages are touched while the training goes on
            self._snapshot.prepare(self._state.packed(self._feed).tensors)
        return saves

    def save(
        self, step: int | None = None, metrics: Metrics | None = None, *, wait: bool = False
    ) -> None:
        """Save now, unless this step is saved already.

        Args:
            step: finished steps; None for those of the last ``step()``.
            metrics: as of ``step``.
            wait: return only when it is durable.

        Raises:
            UsageError, DiskError, Exception: as ``step``.
        """
        at = self._step if step is None else step
        if step is not None and step != self._step:
            self._check_step(step)
        measured = {name: float(value) for name, value in (metrics or {}).items()}
        if self._run is not None and measured:
            self._log.metrics(at, measured)
        self._save(at, measured)
        self._step = at
        if wait:
            self._turn.write()
            self._collect(wait=True, strict=True)

    def _check_step(self, step: int) -> None:
        if self._closed:
            raise UsageError(f"{self.folder}: the Checkpointer is closed.")
        if step <= self._step:
            raise UsageError(
                f"{self.folder}: step {step} comes after step {self._step}. Count finished optimizer steps "
                "of the whole training; resume() says how many there are."
            )
        fresh = self._step == 0 and self.resumed is None and self._run is not None
        if fresh and (self._held().saves or self._held().broken):
            raise UsageError(
                f"{self.folder}: has saves of a training already. Call resume() to go on with it, or "
                "choose another folder."
            )

        if self._feed_state is not None:
            raise UsageError(
                f"{self.folder}: the save has a position in the data that loop() kept. Take the batches from "
                "loop(loader); otherwise the data would begin anew without a word."
            )

    def _is_due(self, step: int, metrics: Metrics) -> bool:
        if self._keep.wants(step, metrics, self._held().saves):
            return True
        if not self._pace.is_due(step):
            return False
        # Where only time decides, a step later is as good: when the buffer's pages are there, and is free.
        busy = self._background is not None and self._background.busy
        return not self._pace.by_time or (self._snapshot.is_ready and not busy)

    def _save(self, step: int, metrics: Metrics) -> None:
        begun = time.monotonic()
        states = gather(RandomState.take())
        feed = self._feed
        feeds = [] if feed is None else self._ranks.gather(to_bytes(feed.state_dict(), "feed"))
        self._pace.saved(step)
        path, back = self.folder / name_of(step), self._background
        if back is None or back.has(path):
            return
        self._turn.write()  # one that is still held: there is one buffer
        back.make_way(step)
        copying = time.monotonic()
        packed = self._state.packed(feed, states, feeds)
        try:
            self._check_space(sum(t.numel() * t.element_size() for t in packed.tensors.values()))
        except DiskError as error:
            back.refused(error)
            return
        self._snapshot.take(packed.tensors)
        run = self._held().run
        facts = (path, step, run.id, run.name, time.time(), dict(metrics), self._ranks.world)
        save, specs = Save(*facts, made_by=made_by()), self._snapshot.specs
        make = partial(make_header, path, specs, save, packed.tree)
        job = Job(path, make, self._snapshot.memory, self._snapshot.places)
        self._turn.hold(lambda: back.start(job, save))
        self.stall = time.monotonic() - copying
        self._log.event("saving", step=step, stall=round(time.monotonic() - begun, 4))

    def _check_space(self, size: int) -> None:
        run = self._held()
        warning = run.check_space(size, more=0 if self._checked else self._keep.at_least + 1)
        self._checked = True
        if warning:
            say(warning)

    # --- the end

    def _collect(self, *, wait: bool = False, strict: bool = False) -> None:
        if self._background is not None:
            self._background.collect(wait=wait, strict=strict)

    @property
    def durable(self) -> float:
        """Seconds until the last finished save was on the disk, from the start of writing."""
        return 0.0 if self._background is None else self._background.durable

    def close(self) -> None:
        """Wait until the last save is durable, and let the folder go.

        Raises:
            DiskError, Exception: the last save failed.
            SystemExit, KeyboardInterrupt: a signal came.
        """
        if self._closed:
            return
        self._closed = True
        try:
            self._turn.write()
            self._collect(wait=True, strict=True)
        finally:
            self._let_go()
        self._signals.end()

    def _let_go(self) -> None:
        self._signals.restore()
        self._updates.end()
        self._snapshot.release()
        if self._run is not None:
            self._log.event("ended", step=self._step, **self._signals.why, **self._why)
            self._run.close()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
            return
        if not isinstance(error, (KeyboardInterrupt, SystemExit)):
            self._why = {"error": f"{type(error).__name__}: {error}"[:_MOST_SAID]}
        try:
            self.close()
        except BaseException as other:  # noqa: BLE001  # the first error is the one to see
            say(f"while ending: {other}")

    def _held(self) -> RunFolder:
        if self._run is None:
            raise RuntimeError("only rank 0 holds the run folder")
        return self._run


def _total(loader: Iterable[Any], steps: int | None, epochs: int | None) -> int | None:
    """Return how many steps a training has in all; None if that is not known."""
    try:
        found = None if epochs is None else epochs * len(loader)  # type: ignore[arg-type]
    except TypeError:
        found = None
    return found if steps is None else min(steps, found or steps)
