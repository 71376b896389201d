"""The folder of a save: it appears whole under its name, or not at all.

All processes write into ``.<name>.dcp.part`` beside it; the first one makes that folder, adds the index, and renames
it. It holds a lock on it, so that what a killed training left behind can be told from what is being written.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from memcard.core.atomic import _lock, disk_errors, fsync_folder, replacing
from memcard.errors import LockedError, NotFoundError, UsageError
from memcard.formats._dcp_index import INDEX, NAME

_PART: Final = ".dcp.part"


def part_of(path: Path) -> Path:
    """Return the name a save has until it is whole; all processes know it."""
    return path.with_name(f".{path.name}{_PART}")


def refuse_taken(path: Path) -> None:
    """Do nothing if there is no such folder yet, or an empty one.

    Raises:
        UsageError: there is something of this name.
    """
    if path.is_dir() and not any(path.iterdir()):
        return
    if path.exists() or path.is_symlink():
        raise UsageError(
            f"{path}: is there already; a save never goes over another one. Give each its own name, such as "
            f"'{path.parent / 'step-000100'}'."
        )


class Part:
    """The unfinished folder, in the process that made it. ``release`` it, or drop it, if nothing comes of it."""

    def __init__(self, path: Path) -> None:
        """Make the folder; remove the dead ones beside it.

        Args:
            path: the final name.

        Raises:
            LockedError: another training is writing a save of this name.
            DiskError: the disk is full, read-only or failing.
        """
        self.path, self.folder = path, part_of(path)
        self._fd = -1
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            sweep(path.parent)
            while not self._is_made():
                pass  # someone swept it in the moment before it was locked

    def _is_made(self) -> bool:
        try:
            self.folder.mkdir()
        except FileExistsError:
            raise LockedError(
                f"{self.path}: another process is writing this save, or something that is no part of a save "
                f"is in {self.folder}. Wait for the one, or remove the other."
            ) from None
        if os.name == "nt":
            return True
        try:
            self._fd = os.open(self.folder, os.O_RDONLY)
        except FileNotFoundError:
            return False
        _lock(self._fd, wait=True)
        if self.folder.exists():
            return True
        self.release()
        return False

    def finish(self, index: bytes, files: Mapping[str, int]) -> None:
        """Add the index and give the folder its name.

        Args:
            index: content of the index.
            files: name and size in bytes of all others; they are durable.

        Raises:
            NotFoundError: some of them are not there, or not whole.
            UsageError: something took the name meanwhile.
            DiskError: the disk is full, read-only or failing.
        """
        missing = [name for name, size in files.items() if _size(self.folder / name) != size]
        if missing:
            raise NotFoundError(
                f"{self.folder}: {', '.join(missing[:3])} {'are' if len(missing) > 1 else 'is'} "
                "not here as other processes wrote it. All processes must save to one disk that they share."
            )
        with disk_errors(self.path):
            with replacing(self.folder / INDEX) as file:
                file.write(index)
            refuse_taken(self.path)
            if self.path.is_dir():
                self.path.rmdir()  # not every system renames onto an empty folder
            self.folder.rename(self.path)
            fsync_folder(self.path.parent)
        self.release()

    def release(self) -> None:
        """Give the lock back. The folder stays until the next save sweeps it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            self.release()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1


def sweep(folder: Path) -> None:
    """Remove the unfinished saves in a folder that no living process is writing."""
    for part in folder.glob(f".*{_PART}"):
        if part.is_dir() and not part.is_symlink() and _is_ours(part):
            _sweep(part)


def _is_ours(part: Path) -> bool:
    """Whether there is nothing in the folder but files of a save, and parts of them."""
    with suppress(FileNotFoundError):
        names = [path.name.removeprefix(".") for path in part.iterdir()]
        return all(NAME.match(name) or name.startswith(INDEX) for name in names)
    return False


def _sweep(part: Path) -> None:
    if os.name == "nt":
        with suppress(OSError):
            shutil.rmtree(part)
        return
    try:
        fd = os.open(part, os.O_RDONLY)
    except OSError:
        return
    try:
        if _lock(fd, wait=False):
            shutil.rmtree(part, ignore_errors=True)
    finally:
        os.close(fd)


def finished(folder: Path) -> Iterator[Path]:
    """Yield the folders in ``folder`` that are finished saves, in no order."""
    with suppress(FileNotFoundError):
        yield from (
            p for p in folder.iterdir() if not p.name.startswith(".") and (p / INDEX).is_file()
        )
