"""The state of a training in memory, laid out as the file will be: one buffer that is used again and again.

Copying into memory that is already mapped costs what memcpy costs. Fresh memory costs six times that, as
the kernel has to find and clear each page (measured for 1.45 GB: 0.17 s and 1.07 s), so the buffer is made
once, and its pages are touched in the background before the first save.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

import torch
from torch import Tensor

from memcard.core.tensors import Specs
from memcard.training._copying import copy_tensors
from memcard.training._tree import spec_of
from memcard.training.saves import lay_out

_AT_ONCE: Final = 32 << 20  # bytes touched in one go
_SPARE: Final = 1 << 20  # bytes


class Snapshot:
    """A buffer as large as the tensors, and the copy of them that was taken last.

    Attributes:
        specs: dtype and shape of the tensors, in the order of the file.
        places: where each begins in ``memory``, and its size, in bytes.
        memory: the bytes; they begin with a page.
    """

    def __init__(self) -> None:
        self.specs: Specs = {}
        self.places: dict[str, tuple[int, int]] = {}
        self.memory = memoryview(b"")
        self._room = memoryview(b"")  # may be more
        self._windows: dict[str, Tensor] = {}
        self._toucher: threading.Thread | None = None
        self._pinned = 0

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return len(self.memory)

    def prepare(self, tensors: Mapping[str, Tensor]) -> None:
        """Lay the buffer out for these tensors; if it has to be made, its pages are touched meanwhile.

        Raises:
            MemoryError: there is no room.
        """
        specs = lay_out({name: spec_of(tensor) for name, tensor in tensors.items()})
        if list(specs.items()) == list(self.specs.items()):
            return
        self._windows.clear()
        self.places, reach = {}, 0
        for name, spec in specs.items():
            self.places[name] = (reach, spec.nbytes)
            reach += spec.nbytes
        if reach > len(self._room) or 2 * reach + 4 * _SPARE < len(self._room):
            self._make_room(reach, tensors)
        self.specs, self.memory = specs, self._room[:reach]
        if reach:
            whole = torch.frombuffer(self._room, dtype=torch.uint8)
            for name, (begin, size) in self.places.items():
                if size:
                    self._windows[name] = _window(whole[begin : begin + size], tensors[name])

    def _make_room(self, size: int, tensors: Mapping[str, Tensor]) -> None:
        self.release()
        if size == 0:
            return
        # Some more, as random numbers and positions are not always equally many bytes; what is never
        # touched costs nothing.
        self._room = _fresh(size + size // 64 + _SPARE)
        self._pin(torch.frombuffer(self._room, dtype=torch.uint8), tensors)
        self._toucher = threading.Thread(target=_touch, args=(self._room[:size],), daemon=True)
        self._toucher.start()

    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy the tensors into the buffer, and return when they are there.

        Args:
            tensors: as they were ``prepare``d.
        """
        self.prepare(tensors)
        if self._toucher is not None:
            self._toucher.join()
            self._toucher = None
        copy_tensors((window, tensors[name]) for name, window in self._windows.items())
        for device in {t.device for t in tensors.values() if t.device.type != "cpu"}:
            torch.accelerator.synchronize(device)

    @property
    def is_ready(self) -> bool:
        """Whether there is a buffer, and all its pages were touched."""
        return bool(self.specs) and (self._toucher is None or not self._toucher.is_alive())

    def release(self) -> None:
        """Give the memory back."""
        if self._toucher is not None:
            self._toucher.join()
            self._toucher = None
        if self._pinned:
            with suppress(RuntimeError):
                torch.cuda.cudart().cudaHostUnregister(self._pinned)  # type: ignore[no-untyped-call]
            self._pinned = 0
        self._windows.clear()
        self.specs, self.memory, self._room = {}, memoryview(b""), memoryview(b"")

    def _pin(self, whole: Tensor, tensors: Mapping[str, Tensor]) -> None:
        """Let CUDA copy straight into the buffer, where the tensors are on such a device."""
        if not any(tensor.is_cuda for tensor in tensors.values()):
            return
        # pin_memory() would round the size up to a power of two
        with suppress(RuntimeError):
            runtime: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
            if int(runtime.cudaHostRegister(whole.data_ptr(), whole.numel(), 0)) == 0:
                self._pinned = whole.data_ptr()


def _fresh(size: int) -> memoryview:
    if size == 0:
        return memoryview(b"")
    if sys.platform == "win32":
        return memoryview(mmap.mmap(-1, size))
    made = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for advice in ("MADV_HUGEPAGE", "MADV_DONTFORK"):
        # DONTFORK: data workers are forks. Without it the next copy would have to give each page twice.
        if hasattr(mmap, advice):
            with suppress(OSError):  # a kernel without it
                made.madvise(getattr(mmap, advice))
    return memoryview(made)


def _window(flat: Tensor, tensor: Tensor) -> Tensor:
    return flat.view(tensor.dtype).view(tensor.shape)


def _touch(memory: memoryview) -> None:
    # It holds the memory: the snapshot may be dropped before this is done.
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    # ctypes lets other threads run meanwhile; mmap.madvise does not
    for at in range(0, len(memory), _AT_ONCE):
        ctypes.memset(address + at, 0, min(_AT_ONCE, len(memory) - at))
