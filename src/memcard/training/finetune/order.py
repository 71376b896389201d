"""Which examples make up which batch: buckets are never mixed, and the order is a function of the seed.

Batch ``n`` is known from (seed, n) alone, so a run that goes on after a kill sees the batches it would
have seen. In each epoch every example is seen as often as its folder says.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import lru_cache

import torch

from memcard.errors import UsageError

_PRIME = 1_000_003  # spreads epochs over seeds: (0, 1) and (1, 0) are different orders


class BucketOrder:
    """Batches of examples of one bucket each."""

    def __init__(
        self, buckets: Sequence[Hashable], repeats: Sequence[int], batch: int, *, seed: int = 0
    ) -> None:
        """Plan batches.

        Args:
            buckets: of each example.
            repeats: of each example, 1 or more.
            batch: most examples in one; the last of a bucket may have fewer.
            seed: of the order.

        Raises:
            UsageError: ``batch`` is less than 1, or there is no example.
        """
        if batch < 1 or not buckets:
            raise UsageError(f"batch is {batch} for {len(buckets)} examples; at least 1 of each.")
        self.batch, self.seed = batch, seed
        groups: dict[Hashable, list[int]] = {}
        for index, (bucket, count) in enumerate(zip(buckets, repeats, strict=True)):
            groups.setdefault(bucket, []).extend([index] * count)
        self._groups = tuple(tuple(group) for group in groups.values())
        self.per_epoch = sum(-(-len(group) // batch) for group in self._groups)  # batches
        self._epoch = lru_cache(maxsize=2)(self._planned)

    def at(self, number: int) -> tuple[int, tuple[int, ...]]:
        """Return epoch and examples of batch ``number``, counted from 0 over all epochs."""
        epoch, place = divmod(number, self.per_epoch)
        return epoch, self._epoch(epoch)[place]

    def _planned(self, epoch: int) -> tuple[tuple[int, ...], ...]:
        chance = torch.Generator().manual_seed((self.seed * _PRIME + epoch) % 2**63)
        batches = []
        for group in self._groups:
            mixed = [group[i] for i in torch.randperm(len(group), generator=chance).tolist()]
            batches += [
                tuple(mixed[at : at + self.batch]) for at in range(0, len(mixed), self.batch)
            ]
        return tuple(batches[i] for i in torch.randperm(len(batches), generator=chance).tolist())
