"""A training whose saves the library knows: ``memcard.Checkpointer``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from memcard.errors import MemcardError
from memcard.jobs._run_saves import adopt, enlist, let_go, packed_saves
from memcard.jobs.export import export
from memcard.store import layout, trainings
from memcard.store.layout import Layout
from memcard.training import checkpointer
from memcard.training.keep import Keep
from memcard.training.saves import Save, look, name_of

__all__ = ["Checkpointer", "adopt", "let_go"]


class Checkpointer(checkpointer.Checkpointer):
    """Saves a training so that it resumes exactly, at a cost of about one percent.

    ::

        ck = memcard.Checkpointer("runs/a", model=model, optimizer=optimizer)
        ck.resume()
        for step, batch in ck.loop(loader, steps=10_000):
            ...
            optimizer.step()
            ck.step(step)
        ck.close()

    The random numbers of python, numpy, torch and every accelerator are always in. Each of ``model`` to
    ``extra`` is one object, or a dict or list of objects; all but models and optimizers need
    ``state_dict()`` of plain values and tensors, and ``load_state_dict()``.

    Each save enters the library where it lies, as kind ``training``, by the name of the run and its step
    (``a/step-120``). What ``keep`` lets go leaves it again. A library that cannot be reached is said once,
    and stops nothing.

    Args:
        directory: of this run; it is made. One process at a time trains in it.
        model: modules; DDP and ``torch.compile`` leave no trace in the names.
        optimizer: its state is kept by the names of the parameters.
        scheduler: of the learning rate.
        ema: averages of the weights.
        scaler: of losses, for half precision.
        data: position in the data, where ``loop`` does not know it: whatever has one.
        extra: whatever else has a state.
        keep: which saves stay; None for ``Keep()``, the three newest.
        every: save every so many steps. None: as often as costs about one percent of the time, at least
            1 second and at most 15 minutes apart.
        settings: plain JSON that ``memcard runs`` shows.
        signals: save and end on SIGTERM, SIGINT and SIGUSR1.
        library: its folder; None: ``$MEMCARD_HOME`` or the platform's; False: none at all.

    Attributes:
        folder: of the run.
        resumed: what ``resume`` did; None before.
        stall: seconds the training stood still for the last save.
        durable: seconds until it was on the disk, from the start of writing.

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
        library: str | Path | Literal[False] | None = None,
    ) -> None:
        hooks: dict[str, Any] = {}
        root = Path(library).expanduser() if library else layout.default_home()
        home = Layout(root)
        if library is not False:
            hooks["on_saved"] = lambda save: adopt(home, save)
            hooks["on_removed"] = lambda save: let_go(home, save)
        super().__init__(
            directory,
            model=model,
            optimizer=optimizer,
            scheduler=scheduler,
            ema=ema,
            scaler=scaler,
            data=data,
            extra=extra,
            keep=keep,
            every=every,
            settings=settings,
            signals=signals,
            **hooks,
        )
        self._home = None if library is False else home
        if self._home is not None and self._run is not None:
            run = self._run.run
            with suppress(MemcardError, OSError):  # a save says so if the library cannot be reached
                enlist(home, trainings.Training(run.id, run.name, self.folder.absolute()))

    def resume(self) -> int:
        """Put everything back as it was in the newest save that is whole; say on stderr which that is.

        Every byte is compared with its digest before anything is changed. A damaged save gets another
        name, and the one before is used. A newer one whose file is gone, and which the library has packed, is
        written again first.

        Returns:
            The number of finished optimizer steps; 0 if there is no save.

        Raises:
            MismatchError: the objects are not those of the save; names what differs. Nothing was changed.
            IntegrityError: there are saves, and all of them are damaged.
            UnsupportedError: a save is of another version.
        """
        if self._home is not None and self._run is not None and not self._step:
            self._unpack(self._home)
        return super().resume()

    def _unpack(self, home: Layout) -> None:
        """Write the newest packed save of this run, if no file of the folder is as new."""
        run = self._held().run
        newest = max((save.step for save in self._held().saves), default=0)
        with suppress(MemcardError, OSError):  # what is there already is used
            for step, ref in packed_saves(home, run.id, run.name):
                path = self.folder / name_of(step)
                if step <= newest or path.exists():
                    return
                export(home, ref.name, path)
                save = look(path, step)
                if isinstance(save, Save) and save.run == run.id:
                    self._held().add(save)
                    sys.stderr.write(
                        f"memcard: {path.name} was gone; written again from the packs of {home.root}\n"
                    )
                    return
                path.unlink()  # of another run that was called the same
