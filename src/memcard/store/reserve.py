"""A little space on the disk that is given up when the disk is full, so that tidying up still works.

Removing needs a little space first: a lease, a journal, perhaps a block for a folder. On a disk that is full to
the last byte `rm`, `gc` and `undo` would fail for lack of it.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from memcard.errors import DiskError, NotFoundError
from memcard.store.layout import Layout
from memcard.store.writer import Writer

SIZE: Final = 1 << 20  # bytes; a journal of 10,000 files has as many
_PLENTY: Final = 64 << 20  # free bytes from which on the reserve is made
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

T = TypeVar("T")


def path_of(layout: Layout) -> Path:
    """Return the file whose space is kept."""
    return layout.root / "reserve"


def keep(writer: Writer) -> None:
    """Make the reserve if it is not there and the disk has room; no fault of it is a fault of the caller."""
    path = path_of(writer.layout)
    with suppress(OSError):
        try:
            if path.stat().st_size == SIZE:
                return
        except FileNotFoundError:
            pass
        if shutil.disk_usage(writer.layout.root).free >= _PLENTY:
            # Bytes that no disk can squeeze: zeros would take no space on some.
            writer.write(path, os.urandom(SIZE), durable=False)


def spend(layout: Layout) -> bool:
    """Give the space up; tell whether there was any."""
    try:
        path_of(layout).unlink()
    except OSError:
        return False
    return True


def with_space(layout: Layout, work: Callable[[], T]) -> T:
    """Do what tidies up; on a full disk give up the reserve first.

    Raises:
        DiskError: there is no space, and no reserve either.
    """
    with suppress(OSError):
        if shutil.disk_usage(layout.root).free < SIZE:
            spend(layout)
    try:
        return work()
    except DiskError as error:
        if error.errno not in _FULL or not spend(layout):
            raise
        try:
            return work()
        except NotFoundError:
            raise error from None  # all was moved before it failed: what is left is to sync it
