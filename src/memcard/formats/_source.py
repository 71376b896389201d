"""One open file, read by offset.

``readinto`` always copies with ``pread`` into the caller's buffer: a file that shrinks is then an error,
not the end of the process, and it is faster than copying out of a map (983 MB in 300 tensors from the
page cache, 2 cores: 40 ms against 55 ms). ``view`` has two ways:

``mmap``
    a window on the page cache; nothing is copied or read before it is touched (all views of the same
    file: 1 ms, and 51 ms with a sum over every value). The default on local disks. A file that
    someone cuts off *while* a window on it is in use kills the process (SIGBUS), as with every program
    that maps files; one that was cut off before is an error.
``pread``
    a copy (50 ms, 70 ms with the sums). The default on network disks, where a mapped file is many
    times slower, and on systems other than Linux: there nothing tells the two kinds of disk apart,
    and Windows cannot replace a file that is mapped.

``MEMCARD_IO=mmap`` or ``MEMCARD_IO=pread`` decides for all files.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Literal, Self, TypeAlias, cast

from memcard.core.checkpoint import Extent
from memcard.errors import CorruptError, IntegrityError, MemcardError, UsageError
from memcard.formats._file_system import is_local

Mode: TypeAlias = Literal["mmap", "pread"]
_AT_ONCE = 1 << 30  # Linux reads at most 2 GiB in one call


class Source:
    """Random access to the bytes of ``path``; safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.mode: Mode = mode_for(path)
        self._fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._lock = Lock()  # only for systems without pread, and for the first view
        self._map: mmap.mmap | None = None
        self._identity = self._stat()
        self.size = self._identity[0]

    def readinto(self, offset: int, into: memoryview) -> None:
        """Fill ``into`` with the bytes from ``offset`` on.

        Raises:
            CorruptError: the file became shorter since it was opened.
        """
        into = into.cast("B") if into.format != "B" or into.ndim != 1 else into
        done = 0
        while done < len(into):
            n = self._pread(offset + done, into[done:])
            if n == 0:
                raise self._shrunk()
            done += n

    def bytes(self, offset: int, size: int) -> bytes:
        """Return ``size`` bytes from ``offset`` on, or fewer at the end of the file."""
        size = max(0, min(size, self.size - offset))
        if hasattr(os, "pread") and size <= _AT_ONCE and self._fd >= 0:
            found = os.pread(self._fd, size, offset)  # no second copy
            if len(found) == size:
                return found
        buffer = bytearray(size)
        self.readinto(offset, memoryview(buffer))
        return bytes(buffer)

    def view(self, offset: int, size: int) -> memoryview:
        """Return read-only bytes: a window on the file, or a copy; ``mode`` says which.

        Raises:
            CorruptError: the file became shorter since it was opened.
        """
        if self.mode == "mmap" and size:
            return self._mapped()[offset : offset + size]
        buffer = memoryview(bytearray(size))
        self.readinto(offset, buffer)
        return buffer.toreadonly()

    def extent(self, offset: int, size: int) -> Extent:
        """Say where the bytes are, for a copy by the kernel."""
        return Extent(self.path, offset, size)

    def window(self, offset: int, size: int) -> tuple[mmap.mmap, int]:
        """Map a part of the file; return the map and where ``offset`` is in it."""
        self._check_open()  # a closed handle is -1, and mapping that gives zeros
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

    def _mapped(self) -> memoryview:
        self._check_open()
        # Beyond the end of a shorter file the map has zeros at best; the size costs 0.5 us to ask.
        if os.fstat(self._fd).st_size < self.size:
            raise self._shrunk()
        with self._lock:
            if self._map is None:
                self._map = mmap.mmap(self._fd, self.size, access=mmap.ACCESS_READ)
            return memoryview(self._map)

    def _shrunk(self) -> CorruptError:
        end = os.fstat(self._fd).st_size
        return CorruptError(
            f"{self.path}: ends at byte {end}, but was {self.size} bytes long when it was opened. "
            "Something is writing to it; try again when that is done."
        )

    def _check_open(self) -> None:
        if self._fd < 0:
            raise MemcardError(f"{self.path}: is closed; open it again to read from it.")

    def _pread(self, offset: int, into: memoryview) -> int:
        self._check_open()
        if hasattr(os, "preadv"):
            return os.preadv(self._fd, [into[:_AT_ONCE]], offset)
        with self._lock:  # Windows: one position per handle
            os.lseek(self._fd, offset, os.SEEK_SET)
            part = os.read(self._fd, min(len(into), 8 << 20))
        into[: len(part)] = part
        return len(part)


def mode_for(path: Path) -> Mode:
    """Return how views of a file are made, from ``MEMCARD_IO`` or the disk it lies on.

    Raises:
        UsageError: ``MEMCARD_IO`` is something else.
    """
    asked = os.environ.get("MEMCARD_IO", "")
    if asked in ("mmap", "pread"):
        return cast("Mode", asked)
    if asked:
        raise UsageError(f"MEMCARD_IO is {asked!r}; it can be mmap or pread, or be left out.")
    return "mmap" if is_local(path) else "pread"


_MOST_NAME = 255  # bytes; what file systems allow
_NO_SUFFIX = frozenset({"", ".part", ".tmp"})
_PICKLES = frozenset({".bin", ".pt"})  # .bin is how transformers names torch's files


def suffix_note(path: Path, title: str, suffixes: tuple[str, ...]) -> tuple[str, ...]:
    """Return a note if the file is named like another format."""
    suffix = path.suffix.lower()
    known = {*suffixes, *(_PICKLES if ".pt" in suffixes else ())}
    # Blobs of a Hugging Face cache are named by their digest; a point in a name is not always a suffix.
    if suffix in _NO_SUFFIX or suffix in known or not suffix[1:].isalnum():
        return ()
    return (f"The name ends in {suffix}, but the content is {title}; it is read by content.",)


def check_range(path: Path, name: str, size: int, offset: int, length: int) -> None:
    """Refuse to read or write outside of a tensor."""
    if offset < 0 or offset + length > size:
        raise ValueError(
            f"{path}: {name!r} has {size} bytes; bytes {offset} to {offset + length} are not in it."
        )


def is_plain_name(name: str) -> bool:
    """Whether a name from a file names a file beside it, on every system; no path, no trick."""
    if name in ("", ".", "..") or set(name) & set("/\\:") or not name.isprintable():
        return False
    return len(name.encode("utf-8", "surrogatepass")) <= _MOST_NAME
