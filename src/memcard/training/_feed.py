"""The batches of a training, in an order and with random numbers that a resumed run finds again.

A ``Feed`` takes the place of ``for batch in loader``. Fetching never touches the global generators of the
process, so their state at a save is a matter of the training loop alone and can be put back at any time
before the first batch is worked on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final, Protocol
from warnings import warn

import torch
from torch.utils.data import DataLoader, IterableDataset

from memcard.errors import MismatchError, UsageError
from memcard.training._exact import ExactDataset, exact
from memcard.training._order import Order, order_of, set_epoch
from memcard.training._prepared import Prepared, dispatched, inside
from memcard.training._ranks import Ranks
from memcard.training._seeding import derive, seed_globals
from memcard.training.randomness import undisturbed

VERSION: Final = 1
END: Final = object()


class Feed:
    """Serve the batches of a loader over all epochs, and know the position among them.

    Args:
        loader: a DataLoader of torch or a StatefulDataLoader of torchdata, with any sampler; or any iterable
            of batches. It is not changed; map-style data sets are served by a copy of the loader.
        seed: of the order and of the samples; None takes ``torch.initial_seed()`` of rank 0, so that
            ``torch.manual_seed`` at the start of a script governs this too. A loaded state brings its own.
        ranks: the processes of this training.

    Attributes:
        epoch: of the batch that was served last, counted from 0.
        batch: number of batches served in this epoch.
        ends_epoch: whether that batch was the last of its epoch; None if that cannot be known.
    """

    def __init__(self, loader: Any, *, seed: int | None = None, ranks: Ranks | None = None) -> None:
        self.loader = loader
        ranks = ranks or Ranks()
        self.seed = (
            ranks.from_first(torch.initial_seed() & 0x7FFF_FFFF_FFFF_FFFF) if seed is None else seed
        )
        self.epoch = 0
        self.batch = 0
        self.ends_epoch: bool | None = None
        self._source = _source_of(loader, self.seed)

    def batches(self, *, epochs: int | None = None) -> Iterator[Any]:
        """Serve batches from the position on, up to the end of epoch number ``epochs``, or without end.

        Raises:
            UsageError: an epoch has no batch.
        """
        while epochs is None or self.epoch < epochs:
            before = self.batch
            for batch in self._source.serve(self.epoch, before):
                self.batch += 1
                self.ends_epoch = self._source.at_end()
                yield batch
            if self.batch == 0:
                raise UsageError(
                    f"Epoch {self.epoch} has no batch. The data set is empty, or smaller than one batch with "
                    "drop_last=True."
                )
            if self._source.once:
                return
            self.epoch, self.batch = self.epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Return the position after the batch that was served last."""
        return {
            "feed": VERSION,
            "seed": self.seed,
            "epoch": self.epoch,
            "batch": self.batch,
            "source": self._source.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a saved position.

        Raises:
            MismatchError: the position belongs to another kind of loader or data set.
        """
        kind, now = state["source"]["kind"], self._source.state_dict()["kind"]
        if kind != now:
            raise MismatchError(
                f"The save has the position in a loader of kind {kind!r}, and the loader is of kind {now!r} now. "
                "Positions cannot be carried over. Resume with the same kind of loader, sampler and data set."
            )
        self.seed = self._source.seed = state["seed"]
        self._source.load_state_dict(state["source"])
        self.epoch, self.batch = state["epoch"], state["batch"]
        if (epoch := state["source"].get("epoch", 0)) > self.epoch:
            self.epoch, self.batch = (
                epoch,
                0,
            )  # an ExactSampler at the end of an epoch is in the next one

    def covers(self, data: Any) -> bool:
        """Say whether the position of ``data`` is part of the feed's: its loader, sampler or data set."""
        parts = [self.loader, inside(self.loader)]
        if isinstance(self.loader, DataLoader):
            batch_sampler = self.loader.batch_sampler
            parts += [self.loader.sampler, batch_sampler, getattr(batch_sampler, "sampler", None)]
            parts += [self.loader.dataset, getattr(self.loader.dataset, "dataset", None)]
        return any(part is data for part in parts if part is not None)


def is_feed_state(state: Any) -> bool:
    """Say whether a saved state is one of a Feed."""
    return isinstance(state, Mapping) and "feed" in state and "source" in state


class _Source(Protocol):
    """What serves the batches of one epoch."""

    seed: int
    once: bool  # there is no second epoch

    def serve(self, epoch: int, done: int) -> Iterator[Any]:
        """Serve what is left of an epoch of which ``done`` batches were served."""
        ...

    def at_end(self) -> bool | None:
        """Say whether the batch that was served last ends its epoch, None if that cannot be known."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what is needed besides epoch and batch; ``kind`` names the source."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what ``state_dict`` returned."""
        ...


def _source_of(loader: Any, seed: int) -> _Source:
    if (inner := inside(loader)) is not None:
        return Prepared(loader, _source_of(inner, seed))
    if (read := dispatched(loader)) is not None:
        return _Batches(read, seed)
    if not isinstance(loader, DataLoader) or _overridden(loader):
        return _Batches(loader, seed)
    if not loader.in_order:
        warn(
            "in_order=False lets the order of batches depend on which worker is first, so a resumed run "
            "would not be exact. The loop serves the batches in order.",
            stacklevel=4,
        )
    return (
        _Streamed(loader, seed)
        if isinstance(loader.dataset, IterableDataset)
        else _Mapped(loader, seed)
    )


def _overridden(loader: DataLoader[Any]) -> bool:
    """Subclasses that iterate otherwise are taken as they are."""
    return type(loader).__iter__ is not DataLoader.__iter__ and not is_stateful(loader)


def is_stateful(loader: Any) -> bool:
    """Say whether it is torchdata's StatefulDataLoader, without importing that."""
    return any(
        kind.__name__ == "StatefulDataLoader" and kind.__module__.startswith("torchdata.")
        for kind in type(loader).__mro__
    )


class _Mapped:
    """A map-style data set: any order, exact samples, a loader of our own with the same settings."""

    once = False

    def __init__(self, loader: DataLoader[Any], seed: int) -> None:
        self.seed = seed
        self._order: Order = order_of(loader, seed)
        self._ended = False
        self._generator = torch.Generator()
        self._dataset: ExactDataset = exact(loader.dataset)
        by_batch = loader.batch_sampler is not None
        order = (
            {"batch_sampler": self._order}
            if by_batch
            else {"batch_size": None, "sampler": self._order}
        )
        self._loader: DataLoader[Any] = DataLoader(
            self._dataset, generator=self._generator, **order, **_options(loader)
        )

    def serve(self, epoch: int, done: int) -> Iterator[Any]:
        """Serve what is left of an epoch."""
        self._order.begin(epoch)
        self._generator.manual_seed(derive(self.seed, epoch, "workers")[0] >> 1)
        quiet = _quiet(self._loader, self.seed, epoch)
        for batch in _fetched(self._loader, quiet, done):
            self._ended = self._order.consume().last
            yield batch
        self._dataset.check = False  # once in a run is enough

    def at_end(self) -> bool:
        """Say whether the last batch was the last of its epoch."""
        return self._ended

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the order."""
        return self._order.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position in the order."""
        self._order.load_state_dict(state)


class _Streamed:
    """An iterable data set: by its own state if that can be had, else read again up to the position."""

    once = False

    def __init__(self, loader: DataLoader[Any], seed: int) -> None:
        self.seed = seed
        self._dataset = exact(loader.dataset)
        self._generator = torch.Generator()
        kind: Callable[..., DataLoader[Any]] = DataLoader
        options = _options(loader) | {"persistent_workers": False}  # new workers learn the epoch
        self._stateful = is_stateful(loader)
        if self._stateful:
            kind = next(k for k in type(loader).__mro__ if k.__name__ == "StatefulDataLoader")
            options["snapshot_every_n_steps"] = vars(loader)["snapshot_every_n_steps"]
        self._loader: Any = kind(
            self._dataset,
            batch_size=loader.batch_size,
            drop_last=loader.drop_last,
            generator=self._generator,
            **options,
        )
        self._own_state = hasattr(self._dataset, "state_dict") and (
            self._stateful or loader.num_workers == 0
        )
        self._iterated = False
        self._saved: Any = None

    def serve(self, epoch: int, done: int) -> Iterator[Any]:
        """Serve what is left of an epoch."""
        self._dataset.seed = self.seed
        self._dataset.set_epoch(epoch)
        self._generator.manual_seed(derive(self.seed, epoch, "workers")[0] >> 1)
        saved, self._saved = self._saved, None
        if saved is not None:
            (self._loader if self._stateful else self._dataset).load_state_dict(saved)
        elif done:
            _say_reading_again(done, self._loader)
        quiet = _quiet(self._loader, self.seed, epoch)
        batches = _fetched(self._loader, quiet, done if saved is not None else 0)
        number = -1
        for number, batch in enumerate(batches):
            self._iterated = True
            if saved is not None or number >= done:
                yield batch
        if number < 0 and self._stateful and self._loader.num_workers == 0:
            # Resumed at its end, torchdata asks the data set for nothing, and it still waits to go on there.
            with undisturbed():
                next(iter(self._dataset), None)

    def at_end(self) -> None:
        """A stream does not know its end before."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the data set, if it has one that can be had."""
        state: Any = None
        if self._own_state and self._iterated:
            state = (self._loader if self._stateful else self._dataset).state_dict()
        return {"kind": "stream", "state": state, "workers": self._loader.num_workers}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the state of the data set.

        Raises:
            MismatchError: the samples were divided among another number of workers.
        """
        if state["workers"] != self._loader.num_workers:
            raise MismatchError(
                f"The save was made with num_workers={state['workers']}, now it is {self._loader.num_workers}. The "
                "workers of an IterableDataset each read their own part, so the order would be another "
                f"one. Resume with num_workers={state['workers']}."
            )
        self._saved = state["state"]


class _Batches:
    """Any iterable of batches: by its own state if it has one, else iterated again up to the position."""

    def __init__(self, loader: Iterable[Any], seed: int) -> None:
        self.seed = seed
        self._loader: Any = loader
        self._own_state = hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")
        self._saved: Any = None
        self.once = isinstance(loader, Iterator)
        self._served = 0

    def serve(self, epoch: int, done: int) -> Iterator[Any]:
        """Serve what is left of an epoch."""
        set_epoch(self._loader, epoch)
        saved, self._saved = self._saved, None
        if saved is not None:
            self._loader.load_state_dict(saved)
        elif done and not isinstance(self._loader, Sequence):
            _say_reading_again(done, self._loader)
        start = done if saved is not None else 0
        self._served = start
        for batch in _fetched(self._loader, _seeded(self.seed, epoch), start):
            self._served += 1
            if self._served > done:
                yield batch

    def at_end(self) -> bool | None:
        """Say whether the last batch was the last of its epoch, if the iterable has a length."""
        return self._served == len(self._loader) if hasattr(self._loader, "__len__") else None

    def state_dict(self) -> dict[str, Any]:
        """Return the iterable's own state, if it has one."""
        state = self._loader.state_dict() if self._own_state and self._served else None
        return {"kind": "batches", "state": state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the iterable's own state."""
        self._saved = state["state"]


_Quiet = Callable[[int], AbstractContextManager[None]]


def _fetched(loader: Any, quiet: _Quiet, done: int) -> Iterator[Any]:
    """Iterate without touching the global generators."""
    with undisturbed():
        iterator = iter(loader)
    while True:
        with quiet(done):
            batch = next(iterator, END)
        if batch is END:
            return
        done += 1
        yield batch


def _quiet(loader: DataLoader[Any], seed: int, epoch: int) -> _Quiet:
    """With workers nothing is computed in this process; without, batches are computed from their own seeds."""
    return _seeded(seed, epoch) if loader.num_workers == 0 else lambda _: nullcontext()


def _seeded(seed: int, epoch: int) -> _Quiet:
    @contextmanager
    def scene(batch: int) -> Iterator[None]:
        with undisturbed():
            seed_globals(derive(seed, epoch, "batch", batch))
            yield

    return scene


def _options(loader: DataLoader[Any]) -> dict[str, Any]:
    """Return the settings of a DataLoader that do not concern the order."""
    return {
        "num_workers": loader.num_workers,
        "collate_fn": loader.collate_fn,
        "pin_memory": loader.pin_memory,
        "timeout": loader.timeout,
        "worker_init_fn": loader.worker_init_fn,
        "multiprocessing_context": loader.multiprocessing_context,
        "prefetch_factor": loader.prefetch_factor,
        "persistent_workers": loader.persistent_workers,
    }


def _say_reading_again(done: int, loader: Any) -> None:
    dataset = getattr(loader, "dataset", loader)
    name = type(getattr(dataset, "dataset", dataset)).__name__
    warn(
        f"{name} cannot go to a position, so {done} batches are read again and left out. That is exact only if "
        "it yields the same again. To resume at once, give the data set state_dict and load_state_dict, "
        "and use torchdata's StatefulDataLoader if it has workers.",
        stacklevel=4,
    )
