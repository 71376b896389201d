"""Plain files into memory, in large pieces: read, and converted on the way.

What lies side by side in a file is read by one call, and all its tensors are converted by another, so that neither
their number nor what other threads of Python do costs much. Where a file is not what it was, or the loops cannot be
had, nothing is said here: ``weights.pour`` reads tensor by tensor, and knows what to tell.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from threading import local
from types import ModuleType
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from torch import Tensor

from memcard.core.checkpoint import Extent

_AT_ONCE: Final = 16 << 20  # bytes
_PARTS: Final = 1000  # tensors in one call: systems take 1024
_WORTH: Final = 32 << 20  # bytes of files: from here on compiling a loop (0.1 s) pays
_NAMES: Final = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32"}
_OWN: Final = local()


@dataclass(frozen=True, slots=True)
class Load:
    """A tensor to read.

    Attributes:
        extent: where it lies.
        kind: its dtype there.
        out: where to; contiguous, on the CPU, as many values.
    """

    extent: Extent
    kind: torch.dtype
    out: Tensor


# A tensor, the first of its values, how many.
_Part: TypeAlias = tuple[Load, int, int]


@dataclass(frozen=True, slots=True)
class Stretch:
    """Tensors, and parts of large ones, side by side in a file, of one dtype, for one dtype."""

    parts: tuple[_Part, ...]

    @property
    def path(self) -> Path:
        """The file."""
        return self.parts[0][0].extent.path

    @property
    def begin(self) -> int:
        """Where it begins in the file, in bytes."""
        load, first, _ = self.parts[0]
        return load.extent.offset + first * load.kind.itemsize

    def fill(self) -> bool:
        """Read it, converted; from any thread. False where the file ends before."""
        load = self.parts[0][0]
        if load.kind == load.out.dtype:
            return self._read([_memory(load.out, first, n) for load, first, n in self.parts])
        size = sum(n for _, _, n in self.parts) * load.kind.itemsize
        piece = _scratch(size)
        if not self._read([piece.numpy().data]):
            return False
        names = _NAMES[load.kind], _NAMES[load.out.dtype]
        _kernels().cast_runs(*names, piece.data_ptr(), self._runs())
        return True

    def _runs(self) -> Any:
        """Return offset in bytes, address of the result and number of values of every part."""
        rows, at = [], 0
        for load, first, n in self.parts:
            rows.append((at, load.out.data_ptr() + first * load.out.itemsize, n))
            at += n * load.kind.itemsize
        return np.array(rows, np.int64)

    def _read(self, into: list[memoryview]) -> bool:
        fd = os.open(self.path, os.O_RDONLY)
        try:
            at = self.begin
            while into:
                count = os.preadv(fd, into, at)
                if not count:
                    return False
                at += count
                into = _rest(into, count)
            return True
        finally:
            os.close(fd)


def stretches(loads: Sequence[Load]) -> list[Stretch] | None:
    """Return how to read tensors in few calls; None where that does not pay or cannot be done."""
    if not hasattr(os, "preadv") or sum(load.extent.size for load in loads) < _WORTH:
        return None
    if not all(_can(*pair) for pair in {(load.kind, load.out.dtype) for load in loads}):
        return None
    ordered = sorted(loads, key=lambda load: (str(load.extent.path), load.extent.offset))
    return list(_grouped(ordered))


def _grouped(loads: Sequence[Load]) -> Iterator[Stretch]:
    found: list[_Part] = []
    size = 0
    for load in loads:
        item = load.kind.itemsize
        for first in range(0, load.out.numel(), _AT_ONCE // item):
            part = load, first, min(_AT_ONCE // item, load.out.numel() - first)
            full = size + part[2] * item > _AT_ONCE or len(found) == _PARTS
            if found and (full or not _adjacent(found[-1], part)):
                yield Stretch(tuple(found))
                found, size = [], 0
            found.append(part)
            size += part[2] * item
    if found:
        yield Stretch(tuple(found))


def _adjacent(one: _Part, other: _Part) -> bool:
    """Whether a part follows another in one file, with the same dtypes."""
    (load, first, count), (after, later, _) = one, other
    return (
        load.extent.path == after.extent.path
        and (load.kind, load.out.dtype) == (after.kind, after.out.dtype)
        and load.extent.offset + (first + count) * load.kind.itemsize
        == after.extent.offset + later * after.kind.itemsize
    )


def _rest(into: list[memoryview], count: int) -> list[memoryview]:
    """Return what is not filled yet."""
    for i, part in enumerate(into):
        if count < len(part):
            return [part[count:], *into[i + 1 :]]
        count -= len(part)
    return []


def _can(source: torch.dtype, target: torch.dtype) -> bool:
    if source == target:
        return True
    try:
        known = _kernels().knows(_NAMES.get(source, ""), _NAMES.get(target, ""))
    except Exception:  # noqa: BLE001  # no llvmlite here, or a broken one: torch does the same
        return False
    return bool(known)


def _kernels() -> ModuleType:
    return import_module("memcard.maths._cast_kernels")


def _memory(out: Tensor, first: int, count: int) -> memoryview:
    """Return the bytes of values. numpy has no bfloat16, but it has bytes."""
    part = out.reshape(-1)[first : first + count].view(torch.uint8)
    return part.numpy().data


def _scratch(size: int) -> Tensor:
    """Return memory of this thread, used again by its next stretch."""
    have: Tensor | None = getattr(_OWN, "piece", None)
    if have is None:
        have = _OWN.piece = torch.empty(_AT_ONCE, dtype=torch.uint8)
    return have[:size]
