"""From tensors of a checkpoint to ``torch.Tensor``, without a copy where that is possible.

A tensor whose bytes lie whole in a plain file becomes a window on a private mapping of that file:
nothing is read before it is touched, and what is written to it stays in this process. Everything else
(strided or big-endian tensors of a .ckpt, deflated members, recipes) is read into fresh memory, and so
is every tensor on a network disk or with ``MEMCARD_IO=pread``.

The mapping lives as long as a tensor of it; the checkpoint may be closed before.
"""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor

from memcard.core.checkpoint import Checkpoint, Extent
from memcard.core.tensors import Spec, Specs
from memcard.errors import CorruptError, NotFoundError, UnsupportedError
from memcard.formats._source import mode_for

DTYPES: Final[Mapping[str, torch.dtype]] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C128": torch.complex128,
    "C64": torch.complex64,
    "C32": torch.complex32,
    # newer than the oldest torch that we take
    **{
        name: getattr(torch, newer)
        for name, newer in (("F8_E8M0", "float8_e8m0fnu"), ("F4", "float4_e2m1fn_x2"))
        if hasattr(torch, newer)
    },
}
_READERS: Final = 4  # threads that fill fresh memory
_SHOWN: Final = 4

Place: TypeAlias = tuple[Path, int, int]


class Bridge:
    """The tensors of one open checkpoint, for torch.

    Two tensors over the same bytes of a file (tied weights) share their memory.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._maps: dict[Path, mmap.mmap | None] = {}

    def tensor(self, name: str) -> Tensor:
        """Return one tensor, on the CPU.

        Asked for again, it shares its memory with the first unless it had to be copied.

        Raises:
            NotFoundError: there is no tensor of this name.
            UnsupportedError: torch has no dtype for it.
        """
        return self.tensors((name,))[name]

    def tensors(self, names: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Return tensors in the order of ``names``; None for all in file order.

        Raises:
            NotFoundError: some of the names are not there; all of those are named.
            UnsupportedError: torch has no dtype for some of them; all are named.
            CorruptError, IntegrityError: the file changed since the checkpoint was opened.
        """
        specs = self._checkpoint.specs
        wanted = specs if names is None else _chosen(specs, names)
        _check_dtypes(wanted)
        found: dict[str, Tensor] = dict.fromkeys(wanted, _NOTHING)
        mapped = len(self._maps)
        seen: dict[Place, Tensor] = {}
        fresh: dict[str, Tensor] = {}
        for name, spec in wanted.items():
            extent = self._checkpoint.extent(name) if spec.nbytes else None
            if extent is None:
                found[name] = fresh[name] = _empty(spec)
                continue
            place = extent.path, extent.offset, extent.size
            if place in seen:
                found[name] = _alias(seen[place], spec)
                continue
            window = self._window(extent, spec)
            if window is None:
                window = fresh[name] = _empty(spec)
            found[name] = seen[place] = window
        if len(self._maps) > mapped:
            _check_unchanged(self._checkpoint)
        self._read(fresh)
        return found

    def _window(self, extent: Extent, spec: Spec) -> Tensor | None:
        """Return a tensor over the mapped bytes; None where they have to be read."""
        dtype = DTYPES[spec.dtype.name]
        # Some kernels need values at multiples of their size; such files are rare and old.
        if extent.offset % dtype.itemsize or sys.byteorder != "little":
            return None
        if extent.path not in self._maps:
            self._maps[extent.path] = self._map(extent.path)
        whole = self._maps[extent.path]
        if whole is None:
            return None
        _check_end(extent, len(whole))
        count = extent.size // dtype.itemsize
        flat = torch.frombuffer(whole, dtype=dtype, count=count, offset=extent.offset)
        shape = _shape(spec)
        return flat if len(shape) == 1 else flat.view(shape)

    def _map(self, path: Path) -> mmap.mmap | None:
        if mode_for(path) == "pread":
            return None
        # On Python 3.13 and newer the map keeps no file handle of its own.
        more: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            # Copy on write: torch wants memory that it may write to; the file is never written.
            return mmap.mmap(fd, 0, access=mmap.ACCESS_COPY, **more)
        finally:
            os.close(fd)

    def _read(self, fresh: Mapping[str, Tensor]) -> None:
        """Fill tensors of their own memory, several at once."""

        def fill(name: str) -> None:
            # Bytes are bytes: numpy has no bfloat16, but it has a buffer.
            flat = fresh[name].reshape(-1).view(torch.uint8)
            self._checkpoint.readinto(name, flat.numpy().data)

        waiting = [name for name, tensor in fresh.items() if tensor.numel()]
        if len(waiting) < 2:
            for name in waiting:
                fill(name)
            return
        with ThreadPoolExecutor(min(_READERS, os.cpu_count() or 1)) as crew:
            for _ in crew.map(fill, waiting):
                pass


_NOTHING: Final = torch.empty(0)


def to_device(tensors: Mapping[str, Tensor], device: str | torch.device) -> dict[str, Tensor]:
    """Return the tensors on a device; what was tied stays tied."""
    seen: dict[tuple[int, torch.dtype, torch.Size], Tensor] = {}
    found = {}
    for name, tensor in tensors.items():
        key = tensor.data_ptr(), tensor.dtype, tensor.shape
        if not tensor.numel() or key not in seen:
            seen[key] = tensor.to(device)
        found[name] = seen[key]
    return found


def _chosen(specs: Specs, names: Iterable[str]) -> Specs:
    chosen = tuple(names)
    if missing := [repr(name) for name in chosen if name not in specs]:
        raise NotFoundError(f"the checkpoint has no tensor {_few(missing)}.")
    return {name: specs[name] for name in chosen}


def _few(items: Sequence[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return "; ".join(items[:_SHOWN]) + more


def _check_dtypes(specs: Mapping[str, Spec]) -> None:
    odd = {name: spec for name, spec in specs.items() if spec.dtype.name not in DTYPES}
    odd |= {n: s for n, s in specs.items() if s.dtype.block > 1 and s.nbytes and _halves(s)}
    if odd:
        faults = [f"{name!r} is {spec}" for name, spec in odd.items()]
        raise UnsupportedError(
            f"torch cannot hold {_few(faults)}. "
            "Convert the file with `memcard convert --dtype bf16`, or take the bytes with read().",
            faults=faults,
        )


def _halves(spec: Spec) -> bool:
    """Tell whether a row ends in the middle of a packed element."""
    return not spec.shape or spec.shape[-1] % spec.dtype.block > 0


def _shape(spec: Spec) -> tuple[int, ...]:
    """Return torch's shape: ``float4_e2m1fn_x2`` counts pairs along the last axis."""
    if spec.dtype.block == 1 or not spec.shape:
        return spec.shape
    return (*spec.shape[:-1], spec.shape[-1] // spec.dtype.block)


def _empty(spec: Spec) -> Tensor:
    # torch.empty of complex32 warns that it is experimental; we only hand over its bytes
    flat = torch.empty(spec.nbytes, dtype=torch.uint8)
    return flat.view(DTYPES[spec.dtype.name]).view(_shape(spec))


def _alias(first: Tensor, spec: Spec) -> Tensor:
    """Return the same memory under another name; the shape or dtype may be another too."""
    return first.reshape(-1).view(DTYPES[spec.dtype.name]).view(_shape(spec))


def _check_end(extent: Extent, size: int) -> None:
    if extent.offset + extent.size > size:
        raise CorruptError(
            f"{extent.path}: has {size} bytes now; a tensor ends at byte "
            f"{extent.offset + extent.size}. Something is writing to it; try again when that is done."
        )


def _check_unchanged(checkpoint: Checkpoint) -> None:
    """Raise IntegrityError if what was mapped is not what was opened."""
    check = getattr(checkpoint, "check_unchanged", None)
    if check is not None:
        check()
