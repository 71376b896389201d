"""``exact``: the random numbers of a sample depend on its place, not on what happened before."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from math import isnan
from typing import Any
from warnings import warn

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from memcard.errors import UsageError
from memcard.training._seeding import (
    Keyed,
    Place,
    derive,
    generators_of,
    reseed,
    seed_globals,
)
from memcard.training.randomness import is_undisturbed, undisturbed

_inside = False  # an outer data set has seeded already: Subset(exact(images)) within exact(...)


def exact(dataset: Any) -> Any:
    """Wrap a data set so that what it draws for a sample depends on (seed, epoch, position) alone.

    Before a sample is computed, python's, numpy's and torch's CPU generators are seeded, and so are the
    generators that the data set keeps or uses (attributes, transforms, module-level names). A
    ``__getitem__`` with a parameter ``generator`` is given a seeded ``torch.Generator``, which serves data
    sets that must not depend on global state. In the main process (``num_workers=0``) the global generators
    are afterwards as they were. Costs about 10 microseconds per sample in a worker.

    The place comes with the index: use it with ``ExactSampler`` or ``Checkpointer.loop``, and as the
    outermost data set. With plain integers in the main process it is the data set as it was.

    The first sample of each process is computed repeatedly and compared; a data set whose samples differ
    draws from a source that cannot be seeded, and a warning says so.

    Args:
        dataset: map-style, or an IterableDataset (then the position is the count of samples of its worker).
    """
    if isinstance(dataset, (ExactDataset, ExactStream)):
        return dataset
    if not isinstance(dataset, IterableDataset):
        return ExactDataset(dataset)
    return StatefulStream(dataset) if hasattr(dataset, "state_dict") else ExactStream(dataset)


class ExactDataset(Dataset[Any]):
    """A map-style data set with reproducible samples; made by ``exact``."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.check = True
        self._own: list[Any] | None = None  # its generators, once looked for in this process
        self._offers = "generator" in _parameters(dataset.__getitem__)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "dataset":  # asked for while unpickling in a worker
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_own": None}

    def __getitem__(self, place: Any) -> Any:
        """Return one sample."""
        if not isinstance(place, (Place, Keyed)):
            return self._plain(place)
        with _scene():
            return self._sample(place, self._compute)

    def __getitems__(self, places: Sequence[Any]) -> list[Any]:
        """Return the samples of a batch; those of a data set with ``__getitems__`` are drawn together."""
        if not places or not isinstance(places[0], (Place, Keyed)):
            return [self._plain(place) for place in places]
        with _scene():
            if hasattr(self.dataset, "__getitems__"):
                samples = self._sample(places[0], lambda _: self._compute_all(places))
            else:
                samples = [self._sample(place, self._compute) for place in places]
            # what the collate function draws in a worker
            seed_globals(_seeds(places[0], "collate"))
        return list(samples)

    def _plain(self, index: Any) -> Any:
        if get_worker_info() is not None and not _inside:
            raise UsageError(
                f"exact({type(self.dataset).__name__}) got the plain index {index!r} in a data worker, so it "
                "does not know the epoch. Use ExactSampler as sampler= of the DataLoader, or iterate with "
                "Checkpointer.loop(loader), and wrap the outermost data set: exact(Subset(images, …))."
            )
        return self.dataset[index]

    def _compute(self, place: Any) -> Any:
        index = place.key if isinstance(place, Keyed) else int(place)
        if self._offers:
            generator = torch.Generator().manual_seed(_seeds(place)[3] >> 1)
            return self.dataset.__getitem__(index, generator=generator)
        return self.dataset[index]

    def _compute_all(self, places: Sequence[Any]) -> Any:
        return self.dataset.__getitems__(
            [place.key if isinstance(place, Keyed) else int(place) for place in places]
        )

    def _sample(self, place: Any, compute: Callable[[Any], Any]) -> Any:
        if self._own is None:
            return self._first_sample(place, compute)
        _seed_for(place, self._own)
        return compute(place)

    def _first_sample(self, place: Any, compute: Callable[[Any], Any]) -> Any:
        """Return the first sample of this process; some data sets make their generators while computing it."""
        _seed_for(place, generators_of(self.dataset))
        sample = compute(place)
        self._own = generators_of(self.dataset)
        if self._own or self.check:
            _seed_for(place, self._own)
            sample, before = compute(place), sample
            if self.check and not same(sample, before):
                _seed_for(place, self._own)
                sample, before = compute(place), sample
                _warn_if_different(sample, before, self.dataset)
        return sample


class ExactStream(IterableDataset[Any]):
    """An iterable data set with reproducible samples; made by ``exact``.

    Its position is the number of samples that its worker has served. By hand, call ``set_epoch`` before
    every epoch; ``Checkpointer.loop`` does.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.seed = 0
        self.epoch = 0
        self._count = 0
        self._resumed = False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "dataset":
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[Any]:
        """Serve the samples, each after seeding."""
        worker = get_worker_info()
        number = worker.id if worker else 0
        if not self._resumed:
            self._count = 0
        self._resumed = False
        own = generators_of(self.dataset)
        source = iter(self.dataset)
        while True:
            seeds = derive(self.seed, self.epoch, "stream", number, self._count)
            with _scene():
                seed_globals(seeds)
                for generator in own:
                    reseed(generator, seeds[3])
                try:
                    sample = next(source)
                except StopIteration:
                    return
            self._count += 1
            yield sample

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch."""
        self.epoch = epoch
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)


class StatefulStream(ExactStream):
    """An iterable data set that can tell and take its position: a StatefulDataLoader goes on where it was."""

    def state_dict(self) -> dict[str, Any]:
        """Return the position of this worker and the state of the data set."""
        place = {"count": self._count, "epoch": self.epoch, "seed": self.seed}
        return {**place, "dataset": self.dataset.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a saved position; the next iteration starts there."""
        self._count, self.epoch, self.seed = state["count"], state["epoch"], state["seed"]
        self._resumed = True
        self.dataset.load_state_dict(state["dataset"])


@contextmanager
def _scene() -> Iterator[None]:
    """Compute samples: in the main process the global generators are afterwards as they were."""
    global _inside  # noqa: PLW0603  # a flag of the process, as the generators are
    before, _inside = _inside, True
    try:
        with nullcontext() if get_worker_info() or is_undisturbed() else undisturbed():
            yield
    finally:
        _inside = before


def _seeds(place: Any, *purpose: str) -> list[int]:
    return derive(place.seed, place.epoch, place.position, *purpose)


def _seed_for(place: Any, own: list[Any]) -> None:
    seeds = _seeds(place)
    seed_globals(seeds)
    for number, generator in enumerate(own):
        reseed(generator, _seeds(place, f"own {number}")[0])


def _parameters(function: Any) -> tuple[str, ...]:
    # not inspect.signature, which took 5 seconds for torch's Subset
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    if code is None:  # written in C
        return ()
    return tuple(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])


def _warn_if_different(sample: Any, again: Any, dataset: Any) -> None:
    if same(sample, again):
        return
    warn(
        f"{type(dataset).__name__} gives different values when it computes a sample twice from the same random "
        "numbers, so a resumed run will not be exact. It draws from a source that cannot be seeded from "
        "outside: the clock, os.urandom, a generator hidden in a library, or a counter of its own. Draw "
        "from random, numpy.random or torch, or give __getitem__ a parameter `generator` and draw from that.",
        stacklevel=2,
    )


def same(one: Any, other: Any, depth: int = 8) -> bool:
    """Say whether two samples are equal bit for bit; what cannot be compared counts as equal."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and _equal_bits(one, other)
    if hasattr(one, "tobytes"):  # numpy, PIL
        return bool(one.tobytes() == other.tobytes())
    if isinstance(one, (str, bytes, int, complex)):
        return bool(one == other)
    if isinstance(one, float):
        return one == other or (isnan(one) and isnan(other))
    if depth == 0:  # objects may hold each other
        return True
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(partial(same, depth=depth - 1), one, other))
    ours, theirs = (
        x if isinstance(x, Mapping) else getattr(x, "__dict__", {}) for x in (one, other)
    )
    return ours.keys() == theirs.keys() and all(same(ours[k], theirs[k], depth - 1) for k in ours)


def _equal_bits(one: Tensor, other: Tensor) -> bool:
    if one.layout != torch.strided:
        return True
    bits = [t.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for t in (one, other)]
    return torch.equal(*bits)
