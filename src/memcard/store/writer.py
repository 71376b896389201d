"""One writer of a library: its lease, its unfinished files, and the lock under which names change.

A file appears whole or not at all: written as ``tmp/<token>-<n>``, synced, renamed, and its folder synced.
The token is that of a lease, a file the writer holds locked. What has a lease nobody holds was left behind
by a process that was killed, and the next writer removes it.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Self

from memcard.core import atomic
from memcard.core.atomic import disk_errors, fsync_folder
from memcard.errors import DiskError, LockedError
from memcard.store.layout import Layout

PATIENCE: Final = 30.0  # seconds to wait for another writer
PACK_PART: Final = "pack"  # what unfinished packs are called by; see ``core.atomic.nameless``
_TOKEN: Final = re.compile(r"[0-9a-f]{16}")
_PART: Final = re.compile(r"([0-9a-f]{16})-\d+")
_PACK_PARTS: Final = re.compile(rf"\.{PACK_PART}\.[0-9a-f]{{8}}\.part")
_AT_ONCE: Final = 64 << 20  # bytes given to one write


class Writer:
    """A context manager; everything that changes a library goes through one."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._token, self._lease, self._count = "", -1, 0

    def __enter__(self) -> Self:
        with disk_errors(self.layout.root):
            for folder in (self.layout.leases, self.layout.tmp):
                ensure_folder(folder)
            sweep(self.layout)
            atomic.sweep(self.layout.packs / PACK_PART)
            while self._lease < 0:
                self._take_lease()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._lease >= 0:
            with suppress(OSError):  # litter is swept by the next writer
                for part in self.layout.tmp.glob(f"{self._token}-*"):
                    part.unlink()
                (self.layout.leases / self._token).unlink()
            os.close(self._lease)
            self._lease = -1

    def part(self) -> Path:
        """Return a new name for an unfinished file; removed at the end if it is still there."""
        self._count += 1
        return self.layout.tmp / f"{self._token}-{self._count}"

    def write(self, path: Path, raw: bytes, *, durable: bool = True) -> None:
        """Make or replace a small file.

        Args:
            path: the final name; its folder is made.
            raw: all of it.
            durable: False for what can be made again: it may be lost in a power cut, never torn.

        Raises:
            DiskError: the disk is full, read-only or failing; what was there is untouched.
        """
        part = self.part()
        with disk_errors(path):
            fd = os.open(
                part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o644
            )
            try:
                _write_all(fd, raw)
                if durable:
                    os.fsync(fd)
            finally:
                os.close(fd)
            self.place(part, path, durable=durable)

    def keep(self, path: Path, raw: bytes) -> None:
        """Make an immutable file, unless it is there with these very bytes."""
        try:
            if path.stat().st_size == len(raw) and path.read_bytes() == raw:
                return
        except OSError:
            pass  # not there, or not readable: write it
        self.write(path, raw)

    def place(self, part: Path, path: Path, *, durable: bool = True) -> None:
        """Give a finished part its name."""
        with disk_errors(path):
            ensure_folder(path.parent)
            part.replace(path)
            if durable:
                fsync_folder(path.parent)

    def move(self, old: Path, new: Path) -> None:
        """Rename a file within the library, durably."""
        with disk_errors(new):
            ensure_folder(new.parent)
            old.rename(new)
            fsync_folder(new.parent)
            fsync_folder(old.parent)

    @contextmanager
    def commit(self) -> Iterator[None]:
        """Hold the library's lock: names and records change only here.

        Raises:
            LockedError: another process holds it for longer than ``PATIENCE`` seconds.
        """
        with disk_errors(self.layout.lock):
            fd = os.open(self.layout.lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._wait_for(fd)
            yield
        finally:
            unlock(fd)

    def _wait_for(self, fd: int) -> None:
        end = time.monotonic() + PATIENCE
        while not try_lock(fd):
            if time.monotonic() > end:
                raise LockedError(
                    f"{self.layout.root}: another memcard has been changing this library for "
                    f"{PATIENCE:.0f} s. Wait until it is done, then run the same command again."
                )
            time.sleep(0.02)

    def _take_lease(self) -> None:
        token = secrets.token_hex(8)
        path = self.layout.leases / token
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        # Between making and locking it a sweeper may have taken it for a dead one: then another.
        if try_lock(fd) and path.exists():
            self._token, self._lease = token, fd
        else:
            os.close(fd)


def try_lock(fd: int) -> bool:
    """Take the lock of an open file until it is closed. False: someone else has it.

    A file system that knows no locks lets everyone in: the specification says what that costs.
    """
    if os.name == "nt":
        import msvcrt

        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            return True
        raise
    return True


def unlock(fd: int) -> None:
    """Let a lock go and close its file.

    Closing alone is not enough: a process that was forked meanwhile (a data worker of a training) has the
    file open too, and would hold the lock for as long as it lives.
    """
    try:
        if os.name != "nt":
            import fcntl

            with suppress(OSError):  # a file system that knows no locks
                fcntl.flock(fd, fcntl.LOCK_UN)
    finally:
        os.close(fd)


def sweep(layout: Layout) -> tuple[Path, ...]:
    """Remove the leases that nobody holds, and the unfinished files of such writers.

    Returns:
        What was removed.
    """
    removed: list[Path] = []
    living: set[str] = set()
    for lease in _listed(layout.leases, _TOKEN):
        if _is_dead(lease):
            removed.append(lease)
        else:
            living.add(lease.name)
    for part in _listed(layout.tmp, _PART):
        if (
            part.name.partition("-")[0] not in living
            and not (layout.leases / part.name[:16]).exists()
        ):
            with suppress(OSError):
                part.unlink()
                removed.append(part)
    return tuple(removed)


def leftovers(layout: Layout) -> tuple[Path, ...]:
    """Return what ``sweep`` and the next pack would remove; nothing is touched."""
    leases = _listed(layout.leases, _TOKEN)
    dead = {lease.name: lease for lease in leases if _is_dead(lease, remove=False)}
    alive = {lease.name for lease in leases} - dead.keys()
    parts = [p for p in _listed(layout.tmp, _PART) if p.name.partition("-")[0] not in alive]
    packs = [] if alive else _listed(layout.packs, _PACK_PARTS)
    return (*dead.values(), *parts, *packs)


def living(layout: Layout) -> int:
    """Count the writers that are at work."""
    return sum(not _is_dead(lease, remove=False) for lease in _listed(layout.leases, _TOKEN))


def ensure_folder(folder: Path) -> None:
    """Make a folder and those above it, durably."""
    if folder.is_dir():
        return
    ensure_folder(folder.parent)
    with suppress(FileExistsError):
        folder.mkdir()
    fsync_folder(folder.parent)


def sync_file(path: Path) -> None:
    """Bring the bytes of a file to the disk."""
    fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def copy_into(part: Path, source: Path, on_part: Callable[[int], None] = lambda done: None) -> None:
    """Copy the bytes of a file to a new one and sync it; memory stays at a few MiB.

    Raises:
        DiskError: the disk is full or failing.
    """
    with disk_errors(part), source.open("rb", buffering=0) as file:
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o644)
        try:
            _pour(file.fileno(), fd, on_part)
            os.fsync(fd)
        finally:
            os.close(fd)


def _pour(source: int, target: int, on_part: Callable[[int], None]) -> None:
    done, by_kernel = 0, hasattr(os, "copy_file_range")
    while True:
        if by_kernel:
            try:
                n = os.copy_file_range(source, target, _AT_ONCE)
            except OSError as error:
                if done or error.errno in (errno.ENOSPC, errno.EIO, errno.EDQUOT):
                    raise
                by_kernel = False  # another file system, or one that cannot
                continue
        else:
            block = os.read(source, 4 << 20)
            n = len(block)
            _write_all(target, block)
        if n == 0:
            return
        done += n
        on_part(done)


def _write_all(fd: int, raw: bytes) -> None:
    view = memoryview(raw)
    while view:
        n = os.write(fd, view[:_AT_ONCE])
        if n == 0:
            raise DiskError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        view = view[n:]


def _listed(folder: Path, names: re.Pattern[str]) -> list[Path]:
    """List the plain files of a folder that can be ours; no links, nothing else."""
    try:
        with os.scandir(folder) as entries:
            return [
                Path(e.path)
                for e in entries
                if names.fullmatch(e.name) and e.is_file(follow_symlinks=False)
            ]
    except OSError:
        return []


def _is_dead(lease: Path, *, remove: bool = True) -> bool:
    """Tell whether nobody holds a lease; then remove it."""
    try:
        fd = os.open(lease, os.O_RDWR)
    except FileNotFoundError:
        return True
    except OSError:
        return False  # someone else's: not ours to judge
    try:
        if not try_lock(fd):
            return False
        if remove:
            lease.unlink(missing_ok=True)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(fd)
