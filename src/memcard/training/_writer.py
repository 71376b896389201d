"""Saves on their way to the disk: written and hashed in the background, one at a time.

The order: a part file beside the final name, its space reserved, all bytes, fsync, rename, fsync of the
folder. A process that is killed anywhere in between leaves the older saves as they are, and at the most a
part file that the next one removes. The run folder is locked, so nobody else has parts in it.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from memcard.core.atomic import disk_errors, fsync_folder
from memcard.errors import UsageError
from memcard.formats._direct import DirectFile
from memcard.formats._planned import _reserve
from memcard.training.saves import digest

_AT_ONCE: Final = 16 << 20  # bytes given to one write
_NICENESS: Final = 10  # of the background threads, where threads have one
_SMALL: Final = 16 << 20  # bytes; writing takes so little that the training waits for it


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be written.

    Attributes:
        path: the final name.
        header: from the BLAKE3 of all tensors (None: not known yet) to the bytes before them; the length
            does not depend on the digests.
        memory: the tensors; unchanged until the job is done.
        places: where each tensor begins in ``memory``, and its size.
    """

    path: Path
    header: Callable[[Mapping[str, str] | None], bytes]
    memory: memoryview
    places: Mapping[str, tuple[int, int]]


def part_of(path: Path) -> Path:
    """Return the name a save has until it is whole."""
    return path.with_name(f".{path.name}.part")


def sweep(folder: Path) -> None:
    """Remove the parts that a killed process left behind; call it with the folder locked."""
    for part in folder.glob(".step-*.safetensors.part"):
        part.unlink(missing_ok=True)


def write(job: Job) -> int:
    """Write a save; it has its name and is durable when this returns.

    Returns:
        Its size in bytes.

    Raises:
        DiskError: the disk is full, read-only or failing; nothing is left behind.
        UsageError: there is a file of this name.
    """
    path, part = job.path, part_of(job.path)
    hashing = _Hashing(job)
    head = len(job.header(None))
    with disk_errors(path):
        part.unlink(missing_ok=True)
        fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o644)
        try:
            hashing.start()
            try:
                _reserve(fd, path, head + len(job.memory))
                _write_data(fd, part, job.memory, head)
                header = job.header(hashing.result())
                if len(header) != head:
                    raise AssertionError(f"{path}: the header grew while it was written")
                _pwrite(fd, memoryview(header), 0)
                os.fsync(fd)
            finally:
                os.close(fd)
            _refuse_taken(path)
            # os.replace, not Path: programs that watch for audit events see it under its own name
            os.replace(part, path)  # noqa: PTH105
        except BaseException:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise
        finally:
            hashing.join()
        fsync_folder(path.parent)
    return head + len(job.memory)


def _refuse_taken(path: Path) -> None:
    if path.exists():
        raise UsageError(f"{path}: is there already; a save is never overwritten.")


def _write_data(fd: int, part: Path, memory: memoryview, head: int) -> None:
    direct = DirectFile.of(part)
    try:
        for at in range(0, len(memory), _AT_ONCE):
            piece = memory[at : at + _AT_ONCE]
            first, last = (0, 0) if direct is None else direct.write(piece, head + at)
            _pwrite(fd, piece[:first], head + at)
            _pwrite(fd, piece[last:], head + at + last)
    finally:
        if direct is not None:
            direct.__exit__(None, None, None)


def _pwrite(fd: int, part: memoryview, offset: int) -> None:
    done = 0
    while done < len(part):
        if hasattr(os, "pwrite"):
            done += os.pwrite(fd, part[done:], offset + done)
        else:
            os.lseek(fd, offset + done, os.SEEK_SET)
            done += os.write(fd, part[done:])


class _Hashing:
    """BLAKE3 of all tensors, in a thread of its own while they are written."""

    def __init__(self, job: Job) -> None:
        self._job, self._found = job, dict[str, str]()
        self._error: BaseException | None = None
        self._stop = False
        self._thread = threading.Thread(target=self._run, name="memcard-hash", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def _run(self) -> None:
        be_nice()
        try:
            for name, (begin, size) in self._job.places.items():
                if self._stop:
                    return
                self._found[name] = digest(self._job.memory[begin : begin + size])
        except BaseException as error:  # noqa: BLE001  # raised again by result()
            self._error = error

    def result(self) -> Mapping[str, str]:
        """Wait, and return the digests in hex."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._found

    def join(self) -> None:
        """End early."""
        self._stop = True
        if self._thread.ident is not None:
            self._thread.join()


def be_nice() -> None:
    """Let the training go first, where a thread can have a priority of its own (Linux)."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended.

    Attributes:
        path: of the save.
        seconds: from the start of writing until it was durable.
        size: in bytes; 0 if it failed.
        error: why it failed; None if it did not.
    """

    path: Path
    seconds: float
    size: int = 0
    error: BaseException | None = None


class Writer:
    """At most one job in the background. Errors wait in the outcome until someone asks."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._outcome: Outcome | None = None
        self._path: Path | None = None
        self._is_written = threading.Event()

    def has(self, path: Path) -> bool:
        """Whether a job of this name is under way, or its outcome was not taken yet."""
        return self._thread is not None and self._path == path

    @property
    def busy(self) -> bool:
        """Whether a job is under way."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, job: Job, after: Callable[[Outcome], None]) -> None:
        """Begin a job; ``after`` is called in the background when it is over.

        The one before must be over, and its outcome taken. A small one is durable when this returns: where
        steps take milliseconds, a save in the background would be late by many of them.
        """
        if self._thread is not None:
            raise RuntimeError("one save at a time")
        self._path = job.path
        self._is_written.clear()
        # No daemon: an interpreter that ends on its own waits for the save.
        self._thread = threading.Thread(
            target=self._run, args=(job, after), name="memcard-save", daemon=False
        )
        self._thread.start()
        if len(job.memory) <= _SMALL:
            self._is_written.wait()

    def _run(self, job: Job, after: Callable[[Outcome], None]) -> None:
        be_nice()
        start = time.monotonic()
        try:
            size = write(job)
            self._outcome = Outcome(job.path, time.monotonic() - start, size)
            self._is_written.set()
            after(self._outcome)
        except BaseException as error:  # noqa: BLE001  # raised in the thread that trains
            self._outcome = Outcome(job.path, time.monotonic() - start, error=error)
        finally:
            self._is_written.set()

    def take(self, *, wait: bool = False) -> Outcome | None:
        """Return the outcome of the last job, once; None while it is under way, or if there is none."""
        if self._thread is None or (self._thread.is_alive() and not wait):
            return None
        self._thread.join()
        self._thread = None
        found, self._outcome = self._outcome, None
        return found
