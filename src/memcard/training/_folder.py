"""The folder of one run: locked by the process that trains, swept, and thinned out by the rules of ``Keep``."""

from __future__ import annotations

import os
import shutil
import struct
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from memcard.core.atomic import disk_errors, fsync_folder
from memcard.errors import CorruptError, DiskError, LockedError
from memcard.training import run_log, saves
from memcard.training._command import command
from memcard.training._writer import sweep
from memcard.training.keep import Keep
from memcard.training.saves import Save

_LOCK: Final = ".lock"
_FLOCK: Final = "hhqqi"  # struct flock of Linux: type, whence, start, length, process
_HERE: Final[set[Path]] = set()  # POSIX locks do not keep a process from itself


class RunFolder:
    """A run folder that this process holds.

    Attributes:
        path: of the folder.
        run: what its ``run.json`` says.
        saves: the sound saves of this run, the oldest first; only headers were read.
        broken: files with the name of a save that are none or damaged.
    """

    def __init__(self, path: Path, keep: Keep, settings: Mapping[str, Any]) -> None:
        self.path, self.keep = path, keep
        self._fd = -1
        with disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
            self._key = path.resolve()
            self._lock()
            try:
                sweep(path)
                found = list(saves.listed(path))
                self.saves = saves.sound(found)
                self.broken = [one for one in found if isinstance(one, saves.Broken)]
                self.run = self._run(settings)
                self.run.write(path)
            except BaseException:
                self.close()
                raise

    def _lock(self) -> None:
        if self._key in _HERE:
            raise self._locked("this process has another Checkpointer for it")
        self._fd = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(self._fd)
        except OSError:
            os.close(self._fd)
            self._fd = -1
            raise self._locked("another process trains in it") from None
        _HERE.add(self._key)

    def _locked(self, why: str) -> LockedError:
        return LockedError(
            f"{self.path}: {why}. Wait until it has ended or stop it, or give this run a folder of its own."
        )

    def _run(self, settings: Mapping[str, Any]) -> run_log.Run:
        more: dict[str, Any] = {"settings": dict(settings), "keep": self.keep.to_dict()}
        more["command"] = command()
        try:
            found = run_log.read_run(self.path)
        except CorruptError:
            found = None
        if found is not None:
            more["settings"] = {**found.settings, **more["settings"]}
            more["steps"] = found.steps
            return run_log.Run(found.id, found.name, found.created, **more)
        if self.saves:  # run.json was lost; its saves know whose they are
            first = self.saves[0]
            return run_log.Run(first.run, first.name, first.time, **more)
        return run_log.Run.new(self._key.name, **more)

    def set_aside(self, path: Path) -> Path:
        """Give a damaged save another name, so that its step can be saved again; return the name."""
        number, aside = 1, path.with_name(f"{path.name}.damaged")
        while aside.exists():
            number += 1
            aside = path.with_name(f"{path.name}.damaged-{number}")
        with disk_errors(path):
            path.rename(aside)
            fsync_folder(self.path)
        self.saves = [save for save in self.saves if save.path != path]
        self.broken = [one for one in self.broken if one.path != path]
        return aside

    def thin_out(self, on_removed: Callable[[Save], None]) -> list[Path]:
        """Remove what no rule keeps; only saves of this run are looked at.

        Returns:
            What was removed.
        """
        ours = [save for save in self.saves if save.run == self.run.id]
        stay = self.keep.choose(ours)
        gone = []
        for save in ours:
            if save.step not in stay:
                with suppress(OSError):
                    save.path.unlink(missing_ok=True)
                    gone.append(save.path)
                    self.saves = [one for one in self.saves if one is not save]
                    on_removed(save)
        return gone

    def aim(self, steps: int) -> None:
        """Note how many steps the whole training has."""
        if steps != self.run.steps:
            self.run = replace(self.run, steps=steps)
            self.run.write(self.path)

    def add(self, save: Save) -> None:
        """Note a save that was just written."""
        self.saves = sorted([*self.saves, save], key=lambda one: one.step)

    def check_space(self, size: int, *, more: int = 0) -> str | None:
        """Look whether there is room.

        Args:
            size: of one save, in bytes.
            more: how many saves there will be in the end; 0 if that does not matter now.

        Returns:
            A warning, if there is room for one but not for all; else None.

        Raises:
            DiskError: there is no room for one.
        """
        free = shutil.disk_usage(self.path).free
        if free < size:
            raise DiskError(
                f"{self.path}: a save takes {gigabytes(size)}, {gigabytes(free)} are free. Free space, or choose a "
                "folder on another disk."
            )
        wanted = more * size - sum(save.size for save in self.saves)
        if wanted > free:
            return (
                f"{self.path}: the saves that are to be kept, and the next one, take {gigabytes(wanted)} more; "
                f"{gigabytes(free)} are free."
            )
        return None

    def close(self) -> None:
        """Let the folder go."""
        if self._fd >= 0:
            os.close(self._fd)  # ends the lock
            self._fd = -1
            _HERE.discard(self._key)


def holder(path: Path) -> int | None:
    """Return the id of the process that trains in a folder, 0 if it is not known; None if nobody does.

    The lock is looked at, not taken: a training that begins at this moment is not turned away.
    """
    lock = path / _LOCK
    if path.resolve() in _HERE:  # to open and close the file would end this process's own lock
        return os.getpid()
    try:
        fd = os.open(lock, os.O_RDWR)
    except OSError:
        return None
    try:
        return _holder(fd)
    finally:
        os.close(fd)


def _holder(fd: int) -> int | None:
    if sys.platform == "linux":
        import fcntl

        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        try:
            kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_GETLK, asked))
        except OSError:
            return None  # a disk without locks
        return None if kind == fcntl.F_UNLCK else max(0, int(pid))
    try:
        _lock(fd)
    except OSError:
        return 0
    return None


def _lock(fd: int) -> None:
    """Lock an open file until it is closed; raises OSError if someone else has it.

    A POSIX lock, not flock: forks do not inherit it. Data workers outlive a killed trainer for some
    seconds, and must not keep the next one out.
    """
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def gigabytes(size: float) -> str:
    """Return a size for people."""
    return f"{size / 1e9:.2f} GB" if size >= 1e7 else f"{size / 1e6:.2f} MB"
