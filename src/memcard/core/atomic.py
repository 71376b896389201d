"""A file appears whole or not at all: temp sibling, write, fsync, rename, fsync the folder.

Several files that belong together, and whole folders, in the same way.

A writer holds a lock on its temporary sibling. What a killed process left behind is locked by nobody: the
next one that writes the same name removes it. Names that end in ``.old`` are never removed so: after a
kill at the wrong moment they are the only copy of what was there.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from memcard.errors import DiskError

_DISK_FAULTS = frozenset({errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT, errno.EFBIG})


def _part_path(path: Path, suffix: str = "part") -> Path:
    """Return a new name for the temporary sibling; no two writers share one.

    A process id alone would not do: in containers it is often the same, and a part that a killed
    process left behind would then stop the next one.
    """
    # os.replace is atomic only within one file system, so the part must be a sibling, not in /tmp.
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.{suffix}")


def fsync_folder(folder: Path) -> None:
    """Make a rename durable. Windows has no handle on folders; there this does nothing."""
    if os.name == "nt":
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full, failing or read-only disk into a DiskError that names the file."""
    try:
        yield
    except DiskError:
        raise  # says already which file
    except OSError as error:
        if error.errno not in _DISK_FAULTS:
            raise
        raise DiskError(
            error.errno,
            f"{path}: {error.strerror}. Nothing was left behind; "
            "free space or choose another disk, then run the same command again.",
        ) from error


def _lock(fd: int, *, wait: bool) -> bool:
    """Take the lock of an open part. False: someone else has it, or this disk knows no locks."""
    if os.name == "nt":
        return False  # a file that is open cannot be removed there, which protects as well
    import fcntl

    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def _hold(part: Path) -> int | None:
    """Lock a part until the handle is closed. None: it was swept in the moment before."""
    try:
        fd = os.open(part, os.O_RDONLY if part.is_dir() else os.O_RDWR)
    except FileNotFoundError:
        return None
    _lock(fd, wait=True)
    if part.exists():
        return fd
    os.close(fd)
    return None


def _new_part(path: Path, *, folder: bool = False) -> tuple[Path, int]:
    """Make an empty temporary sibling, sweep dead ones, and return it with the handle that locks it."""
    sweep(path)
    while True:
        part = _part_path(path)
        if folder:
            part.mkdir()
        else:
            part.touch(exist_ok=False)
        held = _hold(part)
        if held is not None:
            return part, held


def sweep(path: Path) -> tuple[Path, ...]:
    """Remove the temporary siblings of ``path`` that no living process holds.

    Returns:
        What was removed.
    """
    pattern = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}\.part")
    with suppress(OSError), os.scandir(path.parent) as entries:
        found = [Path(e.path) for e in entries if pattern.fullmatch(e.name) and _is_ours(e)]
        return tuple(part for part in found if _swept(part))
    return ()


def _is_ours(entry: os.DirEntry[str]) -> bool:
    return entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)


def _swept(part: Path) -> bool:
    try:
        fd = os.open(part, os.O_RDONLY if part.is_dir() else os.O_RDWR)
    except OSError:
        return False  # gone, or someone else's: not ours to judge
    try:
        if not _lock(fd, wait=False):
            return False
        if part.is_dir():
            shutil.rmtree(part)
        else:
            part.unlink()
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary sibling of ``path`` that takes its place after a clean exit.

    Raises:
        DiskError: the disk is full, read-only or failing; the old file is untouched.
    """
    with disk_errors(path):
        part, held = _new_part(path)
        try:
            with part.open("r+b", buffering=0) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        finally:
            os.close(held)
        fsync_folder(path.parent)


class Together:
    """Files of one folder that appear together, or none of them; the last one names the others.

    Between two renames another program may see some of the new files. It cannot take them for a whole:
    the old last file (an index) goes first, the new one comes last.
    """

    def __init__(self) -> None:
        self._parts: dict[Path, Path] = {}  # final name to finished temporary sibling
        self._held: list[int] = []  # locks of the parts, until all have their names

    @contextmanager
    def stage(self, path: Path) -> Iterator[BinaryIO]:
        """Open a temporary sibling of ``path``; it waits for ``commit`` after a clean exit."""
        with disk_errors(path):
            part, held = _new_part(path)
            try:
                with part.open("r+b", buffering=0) as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
            except BaseException:
                part.unlink(missing_ok=True)
                os.close(held)
                raise
        self._parts[path] = part
        self._held.append(held)

    def commit(self, last: Path) -> None:
        """Give all files their names, ``last`` after the others; on error everything is as before."""
        order = [*(path for path in self._parts if path != last), last]
        aside: dict[Path, Path] = {}
        placed: list[Path] = []
        with disk_errors(last):
            try:
                for path in reversed(order):
                    if path.exists() or path.is_symlink():
                        aside[path] = path.rename(_part_path(path, "old"))
                for path in order:
                    self._parts[path].rename(path)
                    placed.append(path)
                fsync_folder(last.parent)
            except BaseException:
                for path in placed:
                    path.rename(self._parts[path])  # discard finds it there
                for path, old in reversed(aside.items()):
                    old.rename(path)
                raise
            self._parts.clear()
            self._release()
            for old in aside.values():
                old.unlink()

    def discard(self) -> None:
        """Remove what was staged and not committed."""
        for part in self._parts.values():
            part.unlink(missing_ok=True)
        self._parts.clear()
        self._release()

    def _release(self) -> None:
        while self._held:
            os.close(self._held.pop())


@contextmanager
def replacing_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Make a temporary sibling folder that takes the name ``path`` after a clean exit.

    An empty folder of that name is replaced. The files in the new one must be synced by their writers.

    Args:
        path: the final name; its parent is there.
        overwrite: replace a folder that has something in it. It is moved aside, and removed last.

    Raises:
        DiskError: the disk is full, read-only or failing; what was there is untouched.
        FileExistsError: ``path`` is a file, or a folder that is not empty and not to be replaced.
    """
    if path.exists() and not (path.is_dir() and (overwrite or not any(path.iterdir()))):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    with disk_errors(path):
        part, held = _new_part(path, folder=True)
        try:
            yield part
            for folder, _, _ in os.walk(part):
                fsync_folder(Path(folder))
            old = path.rename(_part_path(path, "old")) if path.exists() else None
            try:
                part.rename(path)
            except BaseException:
                if old is not None:
                    old.rename(path)
                raise
        except BaseException:
            with suppress(FileNotFoundError):
                shutil.rmtree(part)
            raise
        finally:
            os.close(held)
        fsync_folder(path.parent)
        if old is not None:
            shutil.rmtree(old)


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Make a temporary sibling folder of ``path`` for files that are needed on the way; always removed.

    Raises:
        DiskError: the disk is full, read-only or failing.
    """
    with disk_errors(path):
        part, held = _new_part(path, folder=True)
        try:
            yield part
        finally:
            with suppress(FileNotFoundError):
                shutil.rmtree(part)
            os.close(held)


@contextmanager
def nameless(folder: Path, stem: str) -> Iterator[tuple[BinaryIO, Callable[[Path], None]]]:
    """Open a temporary file in ``folder`` whose name is known only at its end, such as its digest.

    Yields the file and a function that gives it its name; without that call nothing is left. What killed
    processes left of the same ``stem`` is removed first.

    Raises:
        DiskError: the disk is full, read-only or failing.
    """
    with disk_errors(folder / stem):
        part, held = _new_part(folder / stem)
        try:
            with part.open("r+b", buffering=0) as file:

                def settle(path: Path) -> None:
                    file.flush()
                    os.fsync(file.fileno())
                    if not path.parent.is_dir():
                        path.parent.mkdir(exist_ok=True)
                        fsync_folder(path.parent.parent)
                    part.replace(path)
                    fsync_folder(path.parent)

                yield file, settle
        finally:
            part.unlink(missing_ok=True)
            os.close(held)
