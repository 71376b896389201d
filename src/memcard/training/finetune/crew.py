"""Several processes that train one thing: each sees its own batches, gradients are averaged.

``accelerate launch`` and ``torchrun`` start the processes and say so in the environment.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

_PATIENCE = timedelta(hours=2)  # rank 0 may paint a sheet or fill the cache while others wait


class Crew:
    """This process among the others; alone, everything here costs nothing.

    Attributes:
        rank: number of this process; 0 paints, writes and reports.
        world: how many there are.
    """

    def __init__(self) -> None:
        there = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if there else 0
        self.world = dist.get_world_size() if there else 1

    def batch(self, number: int) -> int:
        """Return which batch of the run is this process's share of number ``number``."""
        return number * self.world + self.rank

    def wait(self) -> None:
        """Return when all processes have come here."""
        if self.world > 1:
            dist.barrier()

    def average(self, module: nn.Module) -> None:
        """Let the gradients be the mean over all processes."""
        if self.world == 1:
            return
        grads = [p.grad for p in module.parameters() if p.grad is not None]
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        dist.all_reduce(flat)
        flat /= self.world
        at = 0
        for grad in grads:
            grad.copy_(flat[at : at + grad.numel()].view_as(grad))
            at += grad.numel()

    def mean(self, value: float, device: torch.device) -> float:
        """Return the mean of a number over all processes."""
        if self.world == 1:
            return value
        found: Tensor = torch.tensor(value, dtype=torch.float64, device=device)
        dist.all_reduce(found)
        return float(found.item()) / self.world


@contextmanager
def joined(device: str) -> Iterator[str]:
    """Join the other processes if a launcher started several; yield the device of this one.

    Args:
        device: as the user says; ``auto`` and ``cuda`` become this process's own accelerator.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1 or not dist.is_available() or dist.is_initialized():
        yield device
        return
    cuda = device in ("auto", "cuda") and torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if cuda else "gloo", timeout=_PATIENCE)
    try:
        yield f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if cuda else device
    finally:
        dist.destroy_process_group()
