"""The shapes every format, store and recipe agrees on: Checkpoint, Sink, Format."""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from memcard.core.tensors import Specs


@dataclass(frozen=True, slots=True)
class Extent:
    """Where the bytes of one tensor lie, whole and contiguous, in a plain file."""

    path: Path
    offset: int
    size: int


@runtime_checkable
class Checkpoint(Protocol):
    """Named tensors that can be listed without being read.

    A file, a stored version, a remote object or a recipe: all the same to the caller.
    """

    @property
    def format(self) -> str:
        """Name of the format, or ``recipe``."""
        ...

    @property
    def specs(self) -> Specs:
        """Name to dtype and shape, in file order. Known from headers only."""
        ...

    @property
    def metadata(self) -> Mapping[str, str]:
        """Free text the checkpoint carries about itself."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What a careful user should know about the file; one sentence each."""
        ...

    def read(self, name: str) -> memoryview:
        """Return one tensor: little-endian, row-major, read-only bytes."""
        ...

    def readinto(self, name: str, into: memoryview, offset: int = 0) -> None:
        """Fill ``into`` with the bytes of one tensor that start at ``offset``."""
        ...

    def extent(self, name: str) -> Extent | None:
        """Where the bytes lie as they are, so that a kernel can copy them; None if nowhere."""
        ...

    def close(self) -> None:
        """Give back the file handle. Reading afterwards is an error."""
        ...


@runtime_checkable
class Sink(Protocol):
    """Somewhere tensors go. Nothing is visible under the final name before a clean exit.

    ``begin`` once, then every byte of every tensor by ``write`` or ``copy`` in any order and from
    any thread, then leave the ``with`` block. An exception inside the block leaves no trace.
    """

    def begin(self, specs: Specs, metadata: Mapping[str, str]) -> None:
        """Announce all tensors; all shapes are known before the first byte."""
        ...

    def write(self, name: str, part: memoryview, offset: int = 0) -> None:
        """Write a part of one tensor at byte ``offset`` of that tensor."""
        ...

    def copy(self, name: str, source: Extent) -> None:
        """Write one whole tensor straight from another file (``copy_file_range``)."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None: ...


@runtime_checkable
class Phased(Protocol):
    """A sink that need not copy what lies well in memory; others copy."""

    def phase(self, name: str, offset: int) -> int:
        """Return how many bytes behind the start of a page a part should lie, to be written best.

        Args:
            name: of a tensor.
            offset: of the part in the tensor.
        """
        ...


def aligned(size: int, lead: int = 0) -> memoryview:
    """Return fresh memory that begins ``lead`` bytes behind the start of a page."""
    return memoryview(mmap.mmap(-1, max(1, size + lead)))[lead : lead + size]


@runtime_checkable
class FileSink(Sink, Protocol):
    """A sink that ends up on a disk: what ``Format.create`` and ``formats.create`` return."""

    @property
    def notes(self) -> Sequence[str]:
        """What the format could not keep, after ``begin``; one sentence each."""
        ...

    @property
    def result(self) -> Path:
        """The file, index or folder to open afterwards; final once ``begin`` has returned."""
        ...

    @property
    def size(self) -> int:
        """Bytes of everything that is written, known once ``begin`` has returned."""
        ...


@runtime_checkable
class Format(Protocol):
    """A container that can be recognised, opened and, mostly, created.

    The file name in ``memcard/formats`` is its public name.
    """

    title: str
    suffixes: tuple[str, ...]  # the first is the one to write; reading goes by content
    source: str  # where the format is specified

    def sniff(self, head: bytes) -> bool:
        """Tell from the first 4 KiB whether this format should try to open the file."""
        ...

    def sniff_folder(self, names: frozenset[str]) -> bool:
        """Tell from the names in a folder whether this format should try to open it."""
        ...

    def open(self, path: Path, *, salvage: bool = False) -> Checkpoint:
        """Open for reading.

        Args:
            path: the file, or the folder if ``sniff_folder`` took it.
            salvage: read the tensors of a file that asks to run code. Nothing is run then either;
                what the program would have made of them is lost.

        Raises:
            UnsafeError, CorruptError, UnsupportedError: the only errors that leave a reader,
                beside OSError of the file system.
        """
        ...

    def create(self, path: Path) -> FileSink:
        """Return a sink that becomes ``path``.

        Raises:
            UnsupportedError: the format is only read.
        """
        ...
