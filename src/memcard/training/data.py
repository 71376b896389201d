"""An order of samples, and random numbers for each of them, that an interrupted run finds again.

``ExactSampler`` is the order: a pure function of (seed, epoch), entered at any position at once. ``exact``
is the randomness: what the data set draws for a sample depends on (seed, epoch, position) alone, so the
data workers have no state that would have to be saved.

``Checkpointer.loop`` uses both by itself for any DataLoader (``memcard.training._feed``). By hand::

    sampler = ExactSampler(len(images), seed=7)
    loader = data.loader(images, sampler, batch_size=4, num_workers=2)
    for epoch in range(sampler.epoch, 10):
        sampler.set_epoch(epoch)  # keeps the position if this is the epoch that was interrupted
        for batch in loader:
            ...
            sampler.advance(batch)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Sized
from math import ceil
from typing import Any, Final
from warnings import warn

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from memcard.errors import MismatchError, UsageError
from memcard.training._exact import exact
from memcard.training._seeding import Place, derive

__all__ = ["ExactSampler", "exact", "loader"]

CHUNK: Final = (
    4096  # indices turned into python integers at a time: a position costs nothing to find
)
PROBES: Final = 8  # entries of the order kept in the state, to notice another order


class ExactSampler(Sampler[int]):
    """Serve the indices of a data set in an order that depends on the seed and the epoch only.

    Give it to a DataLoader as ``sampler=``. Its state is (epoch, samples consumed by the trainer), over all
    ranks; what the workers fetched ahead does not count. ``Checkpointer.loop`` moves it; by hand call
    ``advance`` after every batch and ``set_epoch`` before every epoch.

    Rank r of w serves the positions r, r + w, r + 2w, … If the samples do not divide, the order begins
    again to fill up, so that all ranks serve equally many; with ``drop_last`` the rest is left out instead.
    After a resume with another number of ranks the order goes on at the same position.

    Args:
        n: number of samples, or the data set.
        seed: any integer.
        shuffle: False serves 0, 1, 2, …
        rank: of this process; None asks torch.distributed, 0 without it.
        world: number of processes; None asks torch.distributed, 1 without it.
        drop_last: leave out the samples that do not divide among the ranks.

    Raises:
        UsageError: n is not positive, or the rank is not below the number of processes.
    """

    def __init__(
        self,
        n: int | Sized,
        seed: int = 0,
        *,
        shuffle: bool = True,
        rank: int | None = None,
        world: int | None = None,
        drop_last: bool = False,
    ) -> None:
        self.n = n if isinstance(n, int) else len(n)
        self.seed, self.shuffle, self.drop_last = seed, shuffle, drop_last
        self._rank, self._world = rank, world
        if self.n <= 0:
            raise UsageError(f"ExactSampler needs at least one sample, not {self.n}.")
        if not 0 <= self.rank < self.world:
            raise UsageError(f"Rank {self.rank} does not exist among {self.world} processes.")
        if drop_last and self.n < self.world:
            raise UsageError(
                f"{self.n} samples do not give one to each of {self.world} ranks. Leave drop_last off."
            )
        self.epoch = 0
        self.consumed = 0
        self._kept: tuple[tuple[int, int], Tensor] | None = None  # the order of one epoch
        self._served: tuple[int, int] | None = None  # the position from which all was served

    @property
    def rank(self) -> int:
        """The rank of this process."""
        return ranks()[0] if self._rank is None else self._rank

    @property
    def world(self) -> int:
        """The number of processes that share the order."""
        return ranks()[1] if self._world is None else self._world

    def __len__(self) -> int:
        """The samples of a whole epoch for this rank, wherever the epoch stands."""
        return self._left(0)

    def __iter__(self) -> Iterator[int]:
        """Serve what is left of the epoch, from the position on.

        Raises:
            UsageError: all of it was served before, and the position did not move: it would come again.
        """
        start = (self.epoch, self.consumed)
        if self._served == start:
            raise UsageError(
                f"ExactSampler would serve epoch {self.epoch} from sample {self.consumed} a second time, "
                "because its position was not moved. Call sampler.advance(batch) after every batch and "
                "sampler.set_epoch(epoch) before every epoch, or iterate with Checkpointer.loop(loader)."
            )
        yield from self.rest()
        self._served = start

    def advance(self, batch: Any) -> None:
        """Move the position past one batch of this rank, and into the next epoch at the end of one.

        Args:
            batch: the number of its samples, or the batch itself: the length of its first tensor or list.
        """
        count = batch if isinstance(batch, int) else samples_in(batch)
        self.consumed += count * self.world
        if self._left(self.consumed) == 0:
            self.restart(self.epoch + 1)

    def set_epoch(self, epoch: int) -> None:
        """Go to an epoch: to its first sample, but stay where it is if that epoch was interrupted."""
        if epoch != self.epoch:
            self.restart(epoch)

    def restart(self, epoch: int) -> None:
        """Go to the first sample of an epoch."""
        self.epoch, self.consumed, self._served = epoch, 0, None

    def state_dict(self) -> dict[str, Any]:
        """Return the position, the seed, and a few entries of the order to recognise it by."""
        return {
            "epoch": self.epoch,
            "consumed": self.consumed,
            "seed": self.seed,
            "n": self.n,
            "shuffle": self.shuffle,
            "probes": self._probes(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a saved position in the order of the saved seed.

        Warns if this release of torch shuffles otherwise: then the rest of the epoch is another one.

        Raises:
            MismatchError: the data set has another size, or is shuffled or not, other than before.
        """
        if state["n"] != self.n or state["shuffle"] != self.shuffle:
            raise MismatchError(
                f"The save was made with {state['n']} samples (shuffle={state['shuffle']}), now there are "
                f"{self.n} (shuffle={self.shuffle}): no position in this order is the saved one. Resume "
                "with the same data, or resume without data= and call sampler.set_epoch for a new epoch."
            )
        self.seed = state["seed"]
        self.restart(state["epoch"])
        self.consumed = state["consumed"]
        if self._probes() != state["probes"]:
            warn(
                f"torch {torch.__version__} shuffles in another order than the torch of the save. The rest "
                f"of epoch {self.epoch} will repeat some samples and miss others; later epochs are whole.",
                stacklevel=2,
            )

    def _order(self) -> Tensor:
        """The indices of the present epoch; int64, 8 bytes per sample, kept until another is asked for."""
        key = (self.seed, self.epoch)
        if self._kept is None or self._kept[0] != key:
            self._kept = None  # two orders of 10**9 samples would be 16 GB
            seed = derive(self.seed, self.epoch, "order")[0] >> 1
            generator = torch.Generator().manual_seed(seed)
            order = (
                torch.randperm(self.n, generator=generator)
                if self.shuffle
                else torch.arange(self.n)
            )
            self._kept = (key, order)
        return self._kept[1]

    def _left(self, consumed: int) -> int:
        rest = max(self.n - consumed, 0)
        return rest // self.world if self.drop_last else ceil(rest / self.world)

    def rest(self) -> Iterator[Place]:
        """Serve what is left of the epoch, as ``iter`` does, as often as asked."""
        epoch, consumed = self.epoch, self.consumed
        order, rank, world = self._order(), self.rank, self.world
        count = self._left(consumed)
        first = consumed + rank
        mine = order[first::world][:count]  # a view: nothing is copied before it is served
        position = first
        for start in range(0, len(mine), CHUNK):
            for index in mine[start : start + CHUNK].tolist():
                yield Place(index, self.seed, epoch, position)
                position += world
        for _ in range(
            count - len(mine)
        ):  # the order begins again, so that all ranks serve equally many
            yield Place(int(order[position % self.n]), self.seed, epoch, position)
            position += world

    def _probes(self) -> list[int]:
        order = self._order()
        return [int(order[i * self.n // PROBES]) for i in range(PROBES)]


def loader(
    dataset: Any, sampler: ExactSampler, batch_size: int = 1, **options: Any
) -> DataLoader[Any]:
    """Return a DataLoader for a loop by hand: exact samples, and no draw from the global generators.

    Args:
        dataset: a map-style data set, wrapped in ``exact`` if it is not yet.
        sampler: its order.
        batch_size: samples per batch of this rank.
        options: of ``torch.utils.data.DataLoader``, except ``generator``, ``shuffle`` and ``batch_sampler``.
    """
    private = torch.Generator().manual_seed(derive(sampler.seed, "loader")[0] >> 1)
    return DataLoader(
        exact(dataset), batch_size=batch_size, sampler=sampler, generator=private, **options
    )


def ranks() -> tuple[int, int]:
    """Return the rank of this process and the number of processes."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def samples_in(batch: Any) -> int:
    """Return the number of samples of a batch: the length of its first tensor, array or list of values.

    Raises:
        UsageError: it has none.
    """
    if isinstance(batch, Tensor) and batch.ndim:
        return len(batch)
    if isinstance(batch, Mapping):
        return samples_in(next(iter(batch.values()), None))
    if isinstance(batch, tuple) or (isinstance(batch, list) and _holds_columns(batch)):
        return samples_in(batch[0]) if batch else 0
    if isinstance(batch, Sequence) and not isinstance(batch, str):
        return len(batch)
    if getattr(batch, "shape", ()):
        return int(batch.shape[0])
    raise UsageError(
        f"How many samples a batch of type {type(batch).__name__} has is not to be seen. "
        "Give the number: sampler.advance(len(images))."
    )


def _holds_columns(batch: Sequence[Any]) -> bool:
    """The default collate function makes a list of columns out of samples that are tuples."""
    return bool(batch) and all(isinstance(part, (Tensor, Mapping, list, tuple)) for part in batch)
