"""Write a file from its start to its end, and read it back, past the page cache where the disk allows it.

What the library writes is synced before it has its name, so the cache saves nothing; filling it costs the
kernel more than coding does (measured for 1.3 GB, pages fresh from a virtual machine's host: 1.8 CPU seconds,
past the cache 0.1) and throws out what other programs had there. Reading back past the cache asks the disk, not
the memory that was just written from. ``MEMCARD_WRITE=buffered`` turns it off.

Source: Linux open(2), O_DIRECT.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import BinaryIO, Final

from memcard.core.atomic import disk_errors
from memcard.core.writeback import start_writeback
from memcard.formats._file_system import file_system_of

PIECE: Final = 1 << 20  # bytes that go to the disk at once; a multiple of every block size
_KNOWN: Final = frozenset({"ext4", "xfs"})  # as in ``formats/_direct.py``
_DIRECT: Final = getattr(os, "O_DIRECT", 0)


class Stream:
    """Collects what is written and hands it on in pieces of ``PIECE`` bytes.

    Attributes:
        size: bytes that were given, written or not.
    """

    def __init__(
        self, file: BinaryIO, path: Path, heard: Callable[[memoryview], object] = len
    ) -> None:
        """Begin at the start of an empty file that was opened without a buffer.

        Args:
            file: stays the caller's; nobody else may write to it.
            path: what errors name.
            heard: gets every byte in order when it is written, such as the ``update`` of a digest.
        """
        self.size = 0
        self._file, self._path, self._heard = file, path, heard
        self._piece, self._have = memoryview(mmap.mmap(-1, PIECE)), 0
        self._direct = False

    def write(self, raw: bytes | memoryview) -> None:
        """Append bytes; they may be used for something else afterwards.

        Raises:
            DiskError: the disk is full or failing.
        """
        view, done = memoryview(raw), 0
        while done < len(view):
            n = min(PIECE - self._have, len(view) - done)
            self._piece[self._have : self._have + n] = view[done : done + n]
            self._have += n
            done += n
            if self._have == PIECE:
                if self.size + done == PIECE:  # a short file is not worth asking
                    self._direct = _set_direct(self._file, self._path, on=True)
                self._put()
        self.size += len(view)

    def finish(self) -> None:
        """Write the rest; the caller syncs the file.

        Raises:
            DiskError: the disk is full or failing.
        """
        self._buffered()  # the end is no whole block
        self._put()

    def _put(self) -> None:
        part, whole = self._piece[: self._have], self._have == PIECE
        self._heard(part)
        self._have = 0
        with disk_errors(self._path):
            while part:
                try:
                    done = self._file.write(part)
                except OSError:
                    if not self._direct:
                        raise
                    self._buffered()  # a disk with blocks of another size; if it is full, it says so again
                    continue
                part = part[done:]
                if part:  # cut short by a signal or a full disk: what is left may begin anywhere
                    self._buffered()
        if whole and not self._direct:
            start_writeback(self._file.fileno(), self._file.tell() - PIECE, PIECE)

    def _buffered(self) -> None:
        if self._direct:
            _set_direct(self._file, self._path, on=False)
            self._direct = False


def read_back(path: Path) -> Iterator[memoryview]:
    """Yield a file in pieces, from the disk itself where that is possible.

    Yields:
        Memory that is used again for the next piece.

    Raises:
        DiskError: the disk fails.
    """
    piece = memoryview(mmap.mmap(-1, 4 * PIECE))
    with disk_errors(path), path.open("rb", buffering=0) as file:
        direct = _set_direct(file, path, on=True)
        if not direct and hasattr(os, "posix_fadvise"):
            with suppress(OSError):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while True:
            try:
                n = file.readinto(piece)
            except OSError:
                if not direct:
                    raise
                direct = not _set_direct(file, path, on=False)
                continue
            if not n:
                return
            yield piece[:n]
            if (
                n % PIECE and direct
            ):  # the end; a place that is no multiple of a block cannot be asked for
                direct = not _set_direct(file, path, on=False)


def _set_direct(file: BinaryIO, path: Path, *, on: bool) -> bool:
    """Turn the page cache off or on for an open file; tell whether that worked."""
    control = _fcntl()
    if control is None or not _DIRECT:
        return False
    if on and (os.environ.get("MEMCARD_WRITE") == "buffered" or file_system_of(path) not in _KNOWN):
        return False
    try:
        flags = control.fcntl(file.fileno(), control.F_GETFL)
        flags = flags | _DIRECT if on else flags & ~_DIRECT
        control.fcntl(file.fileno(), control.F_SETFL, flags)
    except OSError:
        return False
    return True


def _fcntl() -> ModuleType | None:
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    return fcntl
