"""A file appears whole or not at all: temp sibling, write, fsync, rename, fsync the folder."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from memcard.errors import DiskError

_DISK_FAULTS = frozenset({errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT, errno.EFBIG})


def _part_path(path: Path) -> Path:
    """Return a new name for the temporary sibling; no two writers share one.

    A process id alone would not do: in containers it is often the same, and a part that a killed
    process left behind would then stop the next one.
    """
    # os.replace is atomic only within one file system, so the part must be a sibling, not in /tmp.
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")


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
