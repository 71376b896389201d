"""The order of any sampler as a function of (seed, epoch): what a foreign sampler draws is seeded too.

A sampler of torch draws its order from torch's global generator, whose state after a resume is that of the
middle of the epoch: another order. Here every epoch begins with generators seeded for it, the sampler draws
undisturbed and without disturbing, and the position is found by drawing again what was consumed. Samples
are not loaded for that, only indices drawn: some 0.1 microseconds each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Protocol
from warnings import warn
from zlib import crc32

from torch.utils.data import BatchSampler, DataLoader
from torch.utils.data.distributed import DistributedSampler

from memcard.errors import MismatchError
from memcard.training._prepared import batches_of
from memcard.training._seeding import Keyed, Place, derive, generators_of, reseed, seed_globals
from memcard.training.data import ExactSampler, ranks
from memcard.training.randomness import Randomness, RandomState, undisturbed

CHUNK: Final = (
    256  # draws between two changes of the global generators, which cost some 100 microseconds
)


@dataclass(frozen=True)
class Portion:
    """What one batch took from the order."""

    samples: int
    draws: int
    fingerprint: int  # of all draws of the epoch up to here
    last: bool  # of its epoch


class Order(Protocol):
    """The indices of the batches of one epoch, and the position in it; the ``batch_sampler`` of a DataLoader."""

    portions: deque[Portion]  # of the batches that were handed out and not yet consumed

    def begin(self, epoch: int) -> None:
        """Go to an epoch: to the saved position if that is in it, else to its start."""
        ...

    def __iter__(self) -> Iterator[Any]:
        """Hand out the indices of the batches that are left of the epoch."""
        ...

    def consume(self) -> Portion:
        """Move the position past the next batch."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the position."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position; takes effect with the next ``begin``."""
        ...


def order_of(loader: DataLoader[Any], seed: int) -> Order:
    """Return the order in which a DataLoader over a map-style data set serves it."""
    if isinstance(_drawn_from(loader), ExactSampler):
        return SamplerOrder(loader)
    return ReplayedOrder(loader, seed)


def _drawn_from(loader: DataLoader[Any]) -> Any:
    """Return what the order comes from: one of the user's batch samplers, or a sampler."""
    kind = batching(loader)
    if kind == "none":
        return loader.sampler
    batches = batches_of(loader)
    # a DataLoader that was given a batch_sampler has a sequential sampler that nothing is drawn from
    return batches.sampler if kind == "stock" else batches


def batching(loader: DataLoader[Any]) -> str:
    """Say who makes batches: torch's BatchSampler (stock), one of the user's (custom), or nobody (none)."""
    if loader.batch_sampler is None:
        return "none"
    kind = type(batches_of(loader))
    plain = kind is BatchSampler or (
        kind.__name__ == "BatchSampler" and kind.__module__.startswith("torchdata.")
    )
    return "stock" if plain else "custom"


class _Batches:
    """Put single draws together to batches, and note what each took."""

    portions: deque[Portion]

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.kind = batching(loader)
        batches = batches_of(loader)
        self.size: int = batches.batch_size if self.kind == "stock" else 1
        self.drop_last = self.kind == "stock" and bool(batches.drop_last)
        self.portions = deque()

    def _batched(self, draws: Iterator[tuple[Any, int, int]]) -> Iterator[Any]:
        """Yield batches of draws; a draw is (index, its samples, fingerprint so far).

        One batch is looked ahead, to know the last. drop_last makes no batch of a rest.
        """
        ahead = self._next(draws)
        while ahead:
            batch, ahead = ahead, self._next(draws)
            samples = sum(count for _, count, _ in batch)
            self.portions.append(Portion(samples, len(batch), batch[-1][2], last=not ahead))
            yield [index for index, _, _ in batch] if self.kind == "stock" else batch[0][0]

    def _next(self, draws: Iterator[tuple[Any, int, int]]) -> list[tuple[Any, int, int]]:
        batch = list(islice(draws, self.size))
        return [] if self.drop_last and len(batch) < self.size else batch


class SamplerOrder(_Batches):
    """The order of an ExactSampler: any position is found at once."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        super().__init__(loader)
        self.sampler: ExactSampler = _drawn_from(loader)

    def begin(self, epoch: int) -> None:
        """Go to an epoch; keeps the position in it if the sampler stands there."""
        self.portions.clear()
        self.sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:
        """Hand out what is left of the epoch."""
        return self._batched((place, 1, 0) for place in self.sampler.rest())

    def consume(self) -> Portion:
        """Move the sampler past the next batch."""
        portion = self.portions.popleft()
        self.sampler.advance(portion.samples)
        return portion

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the sampler."""
        return {"kind": "sampler", **self.sampler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position."""
        self.sampler.load_state_dict(state)


class ReplayedOrder(_Batches):
    """The order of a foreign sampler, drawn from generators that are seeded for each epoch."""

    def __init__(self, loader: DataLoader[Any], seed: int) -> None:
        super().__init__(loader)
        self.source = _drawn_from(loader)
        self.seed = seed
        self.rank, self.world = ranks()
        self.epoch = 0
        self.consumed = Portion(0, 0, 0, last=False)
        self._saved: dict[str, Any] | None = None
        self._rest: Iterator[tuple[Any, int, int]] = iter(())

    def begin(self, epoch: int) -> None:
        """Go to an epoch; draws again what was consumed of it before the resume."""
        self.portions.clear()
        saved, self._saved = self._saved, None
        self.epoch, self.consumed = epoch, Portion(0, 0, 0, last=False)
        self._rest = self._draws()
        if saved and saved["epoch"] == epoch and saved["draws"]:
            self._skip(saved)

    def __iter__(self) -> Iterator[Any]:
        """Hand out what is left of the epoch."""
        return self._batched(self._rest)

    def consume(self) -> Portion:
        """Move the position past the next batch."""
        portion = self.portions.popleft()
        before = self.consumed
        self.consumed = Portion(
            before.samples + portion.samples,
            before.draws + portion.draws,
            portion.fingerprint,
            portion.last,
        )
        return portion

    def state_dict(self) -> dict[str, Any]:
        """Return the position: the draws of this epoch, and a checksum of what they were."""
        return {
            "kind": f"replay {self.kind}",
            "seed": self.seed,
            "epoch": self.epoch,
            "samples": self.consumed.samples,
            "draws": self.consumed.draws,
            "fingerprint": self.consumed.fingerprint,
            "world": self.world,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take a saved position; ``begin`` goes there.

        Raises:
            MismatchError: the save was made with another number of ranks.
        """
        if state["world"] != self.world:
            raise MismatchError(
                f"The save was made on {state['world']} ranks and there are {self.world} now. The order of a "
                f"{type(self.source).__name__} cannot be divided anew in the middle of an epoch. Use "
                "memcard.ExactSampler as sampler= of the DataLoader, or resume on as many ranks as before."
            )
        self.seed = state["seed"]
        self._saved = dict(state)

    def _skip(self, saved: dict[str, Any]) -> None:
        if self._drawn(saved["draws"]) != saved["fingerprint"]:
            # A sampler that counts its epochs itself has just begun its first: let it go through the others.
            for epoch in range(1, saved["epoch"]):
                self.epoch = epoch
                deque(self._draws(), maxlen=0)
            self.epoch = saved["epoch"]
            self._rest = self._draws()
            if self._drawn(saved["draws"]) != saved["fingerprint"]:
                self._warn()
        self.consumed = Portion(saved["samples"], saved["draws"], saved["fingerprint"], last=False)

    def _drawn(self, count: int) -> int | None:
        """Draw what was consumed before; return the fingerprint of that."""
        last = deque(islice(self._rest, count), maxlen=1)
        return last[0][2] if last else None

    def _warn(self) -> None:
        warn(
            f"{type(self.source).__name__} does not give the order of before the interruption: the data set has "
            "changed, or the sampler keeps a state of its own. The rest of this epoch will repeat some "
            "samples and miss others. memcard.ExactSampler has no such state.",
            stacklevel=2,
        )

    def _draws(self) -> Iterator[tuple[Any, int, int]]:
        """Yield all draws of the epoch with their places."""
        set_epoch(self.source, self.epoch)
        purpose = ["order"]
        if self.world > 1 and _knows_no_ranks(self.source):
            purpose.append(f"rank {self.rank}")  # else all ranks would serve the same samples
        stream = _Stream(self.source, derive(self.seed, self.epoch, *purpose))
        position = fingerprint = 0
        for index in stream:
            fingerprint = crc32(repr(index).encode(), fingerprint)
            if self.kind == "custom":
                count = len(index)
                draw: Any = [self._place(key, position + i) for i, key in enumerate(index)]
            else:
                count, draw = 1, self._place(index, position)
            yield draw, count, fingerprint
            position += count

    def _place(self, index: Any, position: int) -> Any:
        place = Place if isinstance(index, int) else Keyed
        return place(index, self.seed, self.epoch, position * self.world + self.rank)


class _Stream:
    """What an iterable yields when it draws from generators of its own seeds, CHUNK by CHUNK."""

    def __init__(self, source: Any, seeds: list[int]) -> None:
        self._source = source
        self._seeds = seeds

    def __iter__(self) -> Iterator[Any]:
        """Yield all; the generators of the process and of the sampler are undisturbed."""
        own = [Randomness(generator) for generator in generators_of(self._source)]
        state: tuple[RandomState, list[Any]] | None = None
        chunk: list[Any] = []
        iterator: Iterator[Any] = iter(())
        while state is None or chunk:
            before = [one.take() for one in own]
            with undisturbed():
                if state is None:
                    self._seed(own)
                    iterator = iter(self._source)
                else:
                    state[0].put()
                    for one, its in zip(own, state[1], strict=True):
                        one.put(its)
                chunk = list(islice(iterator, CHUNK))
                state = RandomState.take(devices=False), [one.take() for one in own]
            for one, its in zip(own, before, strict=True):
                one.put(its)
            yield from chunk

    def _seed(self, own: list[Randomness]) -> None:
        seed_globals(self._seeds)
        for number, one in enumerate(own):
            reseed(one.generator, (self._seeds[3] + number) & 0xFFFF_FFFF_FFFF_FFFF)


def set_epoch(owner: Any, epoch: int) -> None:
    """Tell the epoch to a sampler, and to the one that it batches, if they ask for it."""
    for one in (getattr(owner, "sampler", None), owner):
        if isinstance(one, ExactSampler):
            one.restart(epoch)
        elif one is not None and hasattr(one, "set_epoch"):
            one.set_epoch(epoch)


def _knows_no_ranks(sampler: Any) -> bool:
    """Samplers of torch serve the whole data set, except the distributed one."""
    of_torch = type(sampler).__module__.startswith(("torch.utils.data", "torchdata."))
    return of_torch and not isinstance(sampler, (BatchSampler, DistributedSampler))
