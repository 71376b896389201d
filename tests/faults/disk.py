"""Makes the n-th call by which a program changes the disk the last one, a torn one, or a failing one.

Calls are counted in this process at the ``os`` module, so only code that goes through it is seen; the
library's own writing does. Reads are not counted.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

Fault: TypeAlias = Literal["kill", "torn", "ENOSPC", "EIO", "full"]

KILLED = 137
COUNTED = ("open", "write", "pwrite", "fsync", "rename", "replace", "link", "unlink", "rmdir", "mkdir",
           "chmod", "ftruncate", "copy_file_range")  # fmt: skip
WRITES = ("write", "pwrite")
_TAKES_SPACE = frozenset(
    {"open", "write", "pwrite", "fsync", "link", "mkdir", "copy_file_range", "rename"}
)


class Disk:
    """Stands before the calls of ``os`` once ``install`` was called; for good, so use a child process."""

    def __init__(self, at: int, fault: Fault) -> None:
        self.at, self.fault = at, fault
        self.count = 0
        self.over = False

    def install(self) -> None:
        for name in COUNTED:
            if hasattr(os, name):
                setattr(os, name, self._wrapped(name, getattr(os, name)))

    def _wrapped(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if self.over or (name == "open" and not _makes(args)):
                return call(*args, **kwargs)
            if name in WRITES and not stat.S_ISREG(os.fstat(args[0]).st_mode):
                return call(*args, **kwargs)
            self.count += 1
            if self.count == self.at:
                self._strike(name, call, args)
            if self.count > self.at and self.fault == "full" and name in _TAKES_SPACE:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return call(*args, **kwargs)

        return wrapped

    def _strike(self, name: str, call: Callable[..., Any], args: tuple[Any, ...]) -> None:
        if self.fault == "torn" and name in WRITES:
            call(args[0], bytes(args[1])[: len(args[1]) // 2], *args[2:])
        if self.fault in ("kill", "torn"):
            os._exit(KILLED)
        number = errno.EIO if self.fault == "EIO" else errno.ENOSPC
        raise OSError(number, os.strerror(number))


def _makes(args: tuple[Any, ...]) -> bool:
    return bool(len(args) > 1 and args[1] & os.O_CREAT)
