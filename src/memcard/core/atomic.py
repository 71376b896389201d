"""A file appears whole or not at all: temp sibling, write, fsync, rename, fsync the folder.

Several files that belong together, and whole folders, in the same way.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
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
    except OSError as error:
        if error.errno not in _DISK_FAULTS:
            raise
        raise DiskError(
            error.errno,
            f"{path}: {error.strerror}. Nothing was left behind; "
            "free space or choose another disk, then run the same command again.",
        ) from error


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary sibling of ``path`` that takes its place after a clean exit.

    Raises:
        DiskError: the disk is full, read-only or failing; the old file is untouched.
    """
    part = _part_path(path)
    with disk_errors(path):
        try:
            with part.open("xb", buffering=0) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        fsync_folder(path.parent)


class Together:
    """Files of one folder that appear together, or none of them; the last one names the others.

    Between two renames another program may see some of the new files. It cannot take them for a whole:
    the old last file (an index) goes first, the new one comes last.
    """

    def __init__(self) -> None:
        self._parts: dict[Path, Path] = {}  # final name to finished temporary sibling

    @contextmanager
    def stage(self, path: Path) -> Iterator[BinaryIO]:
        """Open a temporary sibling of ``path``; it waits for ``commit`` after a clean exit."""
        part = _part_path(path)
        with disk_errors(path):
            try:
                with part.open("xb", buffering=0) as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
            except BaseException:
                part.unlink(missing_ok=True)
                raise
        self._parts[path] = part

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
            for old in aside.values():
                old.unlink()

    def discard(self) -> None:
        """Remove what was staged and not committed."""
        for part in self._parts.values():
            part.unlink(missing_ok=True)
        self._parts.clear()


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
    part = _part_path(path)
    with disk_errors(path):
        try:
            part.mkdir()
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
        fsync_folder(path.parent)
        if old is not None:
            shutil.rmtree(old)
