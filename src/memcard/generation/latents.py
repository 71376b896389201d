"""The noise a picture starts from.

Drawn on the CPU in float32 whatever the device and dtype, one generator per picture, so that a seed
means the same picture alone, in a batch, and on every machine's random numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

SEEDS = 2**32  # A1111's range; larger ones do not survive its image text


def generator(seed: int) -> Generator:
    """Return the source of all randomness of one picture."""
    return torch.Generator("cpu").manual_seed(seed)


def seeds(first: int, count: int) -> tuple[int, ...]:
    """Return the seeds of ``count`` pictures: first, first + 1, … as A1111 counts."""
    return tuple((first + i) % SEEDS for i in range(count))


def noise(shape: Sequence[int], source: Generator) -> Tensor:
    """Return unit normal noise: ``shape`` is (channels, height, width); float32, batch of one."""
    return torch.randn((1, *shape), generator=source, dtype=torch.float32)
