"""What the processes of one training have to agree on. Alone, it costs nothing."""

from __future__ import annotations

from typing import Any

import torch


class Ranks:
    """This process among those of ``torch.distributed``, if that is in use.

    Attributes:
        rank: number of this process; 0 decides and writes.
        world: how many there are.
    """

    def __init__(self) -> None:
        import torch.distributed as dist

        there = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if there else 0
        self.world = dist.get_world_size() if there else 1
        self._group: Any = None
        if self.world > 1 and "gloo" not in str(dist.get_backend()):
            # Numbers on the CPU: asking a GPU at every step would stop it.
            self._group = dist.new_group(backend="gloo")

    @property
    def is_first(self) -> bool:
        """Whether this process decides and writes."""
        return self.rank == 0

    def most(self, *numbers: int) -> tuple[int, ...]:
        """Return the highest of each number over all processes; all have to call it."""
        if self.world == 1:
            return numbers
        import torch.distributed as dist

        found = torch.tensor(numbers, dtype=torch.int64)
        dist.all_reduce(found, dist.ReduceOp.MAX, group=self._group)
        return tuple(found.tolist())

    def from_first(self, number: int) -> int:
        """Return the number that rank 0 has; all have to call it."""
        if self.world == 1:
            return number
        import torch.distributed as dist

        found = torch.tensor([number], dtype=torch.int64)
        dist.broadcast(found, 0, group=self._group)
        return int(found.item())

    def gather(self, raw: bytes) -> list[bytes]:
        """Return the bytes of all processes in order of rank; all have to call it. Nothing is pickled."""
        if self.world == 1:
            return [raw]
        import torch.distributed as dist

        (longest,) = self.most(len(raw))
        mine = torch.zeros(8 + longest, dtype=torch.uint8)
        mine[: 8 + len(raw)] = torch.frombuffer(
            bytearray(len(raw).to_bytes(8, "little") + raw), dtype=torch.uint8
        )
        found = [torch.empty_like(mine) for _ in range(self.world)]
        dist.all_gather(found, mine, group=self._group)
        whole = [one.numpy().tobytes() for one in found]
        return [one[8 : 8 + int.from_bytes(one[:8], "little")] for one in whole]
