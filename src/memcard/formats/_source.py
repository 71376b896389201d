"""One open file, read by offset: ``pread`` into the caller's buffer, or ``mmap`` on request.

``pread`` is the default: on network disks and Windows shares a mapped file is many times slower
(ComfyUI #2288, diffusers #12680), and a mapped file that shrinks kills the process.
``MEMCARD_IO=mmap`` maps instead.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Self

from memcard.core.checkpoint import Extent
from memcard.errors import CorruptError, IntegrityError, MemcardError


class Source:
    """Random access to the bytes of ``path``; safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._lock = Lock()  # only for systems without pread
        self._map: mmap.mmap | None = None
        self._identity = self._stat()
        self.size = self._identity[0]
        if os.environ.get("MEMCARD_IO") == "mmap" and self.size:
            self._map = mmap.mmap(self._fd, 0, access=mmap.ACCESS_READ)

    def readinto(self, offset: int, into: memoryview) -> None:
        """Fill ``into`` with the bytes from ``offset`` on.

        Raises:
            CorruptError: the file became shorter since it was opened.
        """
        into = into.cast("B") if into.format != "B" or into.ndim != 1 else into
        done = 0
        if self._map is not None:
            # Slicing raises instead of returning less; bounds were checked against the size at open.
            into[:] = memoryview(self._map)[offset : offset + len(into)]
            return
        while done < len(into):
            n = self._pread(offset + done, into[done:])
            if n == 0:
                raise CorruptError(
                    f"{self.path}: ends at byte {offset + done}, but was {self.size} bytes long when "
                    "it was opened. Something is writing to it; try again when that is done."
                )
            done += n

    def bytes(self, offset: int, size: int) -> bytes:
        """Return ``size`` bytes from ``offset`` on, or fewer at the end of the file."""
        buffer = bytearray(max(0, min(size, self.size - offset)))
        self.readinto(offset, memoryview(buffer))
        return bytes(buffer)

    def view(self, offset: int, size: int) -> memoryview:
        """Return read-only bytes: a window on the map, or a copy."""
        if self._map is not None:
            return memoryview(self._map)[offset : offset + size]
        buffer = memoryview(bytearray(size))
        self.readinto(offset, buffer)
        return buffer.toreadonly()

    def extent(self, offset: int, size: int) -> Extent:
        """Say where the bytes are, for a copy by the kernel."""
        return Extent(self.path, offset, size)

    def window(self, offset: int, size: int) -> tuple[mmap.mmap, int]:
        """Map a part of the file; return the map and where ``offset`` is in it."""
        start = offset - offset % mmap.ALLOCATIONGRANULARITY
        length = offset - start + size
        return mmap.mmap(self._fd, length, access=mmap.ACCESS_READ, offset=start), offset - start

    def check_unchanged(self) -> None:
        """Raise IntegrityError if someone replaced or wrote to the file since it was opened."""
        try:
            path = self.path.stat()
            same = self._stat() == self._identity and (path.st_ino, path.st_dev) == self._inode
        except FileNotFoundError:
            same = False
        if not same:
            raise IntegrityError(
                f"{self.path}: changed while it was read. Try again when nothing writes to it."
            )

    def close(self) -> None:
        """Give the handle back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._map = None  # unmapped when the last view of it goes

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self.close()

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            self.close()

    def _stat(self) -> tuple[int, int]:
        stat = os.fstat(self._fd)
        self._inode = (stat.st_ino, stat.st_dev)
        return stat.st_size, stat.st_mtime_ns

    def _pread(self, offset: int, into: memoryview) -> int:
        if self._fd < 0:
            raise MemcardError(f"{self.path}: is closed; open it again to read from it.")
        if hasattr(os, "preadv"):
            return os.preadv(self._fd, [into[: 1 << 30]], offset)
        with self._lock:  # Windows: one position per handle
            os.lseek(self._fd, offset, os.SEEK_SET)
            part = os.read(self._fd, min(len(into), 8 << 20))
        into[: len(part)] = part
        return len(part)


def suffix_note(path: Path, title: str, suffixes: tuple[str, ...]) -> tuple[str, ...]:
    """Return a note if the file is named like another format."""
    suffix = path.suffix.lower()
    if not suffix or suffix in suffixes or suffix in (".part", ".tmp", ".bin"):
        return ()
    return (f"The name ends in {suffix}, but the content is {title}; it is read by content.",)


def check_range(path: Path, name: str, size: int, offset: int, length: int) -> None:
    """Refuse to read or write outside of a tensor."""
    if offset < 0 or offset + length > size:
        raise ValueError(
            f"{path}: {name!r} has {size} bytes; bytes {offset} to {offset + length} are not in it."
        )
