"""How much memory is free on a device."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import torch

_UNKNOWN: Final = 8 << 30  # bytes, where nothing tells
_INFO: Final = Path("/proc/meminfo")
# What a container may use: the limit and what it uses, of cgroup 2 and 1.
_GROUPS: Final = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)


def free_memory(device: torch.device) -> int:
    """Return the bytes that are free on a device now: of the graphics card, else of this machine."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min(_machine(), _container())


def _machine() -> int:
    try:
        for line in _INFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")) // 2
    except (AttributeError, ValueError, OSError):
        return _UNKNOWN


def _container() -> int:
    """Return what a container has left; its page cache counts as used, so this is on the safe side."""
    for limit, used in _GROUPS:
        try:
            return max(0, int(limit.read_text()) - int(used.read_text()))
        except (OSError, ValueError):
            continue  # no such group, or "max"
    return 1 << 62
