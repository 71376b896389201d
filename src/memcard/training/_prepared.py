"""Loaders that Accelerate has prepared: what is in them, and what they do to each batch.

``Accelerator.prepare`` puts a loader around a loader: it divides the batches among the processes, moves them
to the device and tells the accelerator when an epoch ends, for which it fetches one batch ahead. Here the
inner loader is served by a source of our own, which knows the end without fetching ahead, and the rest is
done as Accelerate does it. Accelerate itself is not imported before it was used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from torch.utils.data import BatchSampler

from memcard.training.data import ExactSampler


class Inner(Protocol):
    """The source that serves the loader inside."""

    seed: int
    once: bool

    def serve(self, epoch: int, done: int) -> Iterator[Any]:
        """Serve what is left of an epoch of which ``done`` batches were served."""
        ...

    def at_end(self) -> bool | None:
        """Say whether the batch that was served last ends its epoch, None if that cannot be known."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what is needed besides epoch and batch."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what ``state_dict`` returned."""
        ...


class Prepared:
    """Serve the batches of a loader that was prepared.

    Args:
        shard: the prepared loader.
        inner: serves the loader in it.
    """

    def __init__(self, shard: Any, inner: Inner) -> None:
        self._shard, self._inner = shard, inner
        self.once = inner.once

    @property
    def seed(self) -> int:
        """The seed of the order and of the samples."""
        return self._inner.seed

    @seed.setter
    def seed(self, seed: int) -> None:
        self._inner.seed = seed

    def serve(self, epoch: int, done: int) -> Iterator[Any]:
        """Serve what is left of an epoch, on the device."""
        from accelerate.utils import send_to_device

        shard = self._shard
        shard.begin()
        try:
            for batch in self._inner.serve(epoch, done):
                # accumulated gradients are used at the end of an epoch, however many there are
                shard.end_of_dataloader = bool(self._inner.at_end())
                if shard.device is None:
                    yield batch
                else:
                    yield send_to_device(batch, shard.device, non_blocking=shard._non_blocking)
        finally:
            shard.end()
        shard.iteration = epoch + 1

    def at_end(self) -> bool | None:
        """Say whether the last batch was the last of its epoch."""
        return self._inner.at_end()

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the loader inside."""
        return self._inner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position of the loader inside."""
        self._inner.load_state_dict(state)


class Dispatched:
    """A loader whose batches rank 0 reads for all; it has no position that others could know."""

    def __init__(self, dispatcher: Any) -> None:
        self.dataset = dispatcher.dataset
        self._dispatcher = dispatcher

    def __iter__(self) -> Iterator[Any]:
        """Iterate it."""
        return iter(self._dispatcher)

    def set_epoch(self, epoch: int) -> None:
        """Tell it the epoch."""
        self._dispatcher.iteration = epoch


class DispatchedSized(Dispatched):
    """The same, of a length that is known."""

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return len(self._dispatcher)


def inside(loader: Any) -> Any:
    """Return the loader in a prepared one; None if it is none."""
    return loader.base_dataloader if _is(loader, "DataLoaderShard") else None


def dispatched(loader: Any) -> Dispatched | None:
    """Return what iterates a loader whose batches rank 0 reads; None if it is none."""
    if not _is(loader, "DataLoaderDispatcher"):
        return None
    return (DispatchedSized if _has_length(loader) else Dispatched)(loader)


def batches_of(loader: Any) -> Any:
    """Return the batch sampler of a loader, as ``undivided`` leaves it."""
    return undivided(loader.batch_sampler)


def undivided(batches: Any) -> Any:
    """Return the batch sampler over an ExactSampler that Accelerate has wrapped; any other as it is.

    An ExactSampler serves each process its own part, so Accelerate must not divide that once more. Its
    wrapper is told that there is one process; then the length of the prepared loader is right too.
    """
    if not _is(batches, "BatchSamplerShard"):
        return batches
    inner = batches.batch_sampler
    if type(inner) is not BatchSampler or not isinstance(inner.sampler, ExactSampler):
        return batches
    if batches.split_batches:  # the size is that of all processes together
        inner.batch_size //= batches.num_processes
        batches.batch_size, batches.split_batches = inner.batch_size, False
    batches.num_processes, batches.process_index = 1, 0
    return inner


def _is(thing: Any, name: str) -> bool:
    # not isinstance: prepared loaders pretend to be of the class of the loader inside
    return any(
        kind.__name__ == name and kind.__module__ == "accelerate.data_loader"
        for kind in type(thing).__mro__
    )


def _has_length(loader: Any) -> bool:
    try:
        len(loader)
    except TypeError:
        return False
    return True
