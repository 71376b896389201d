"""Makes the n-th call by which a program changes the disk the last one, a torn one, or a failing one.

Calls are seen in this process where Python makes them: at the ``os`` module and at ``open``. What C code
writes by itself (SQLite, for the index, which is a cache) is not seen. Reads are not counted.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import stat
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

Fault: TypeAlias = Literal["kill", "torn", "ENOSPC", "EIO", "full", "broken"]
Call: TypeAlias = Callable[..., Any]
Handler: TypeAlias = Callable[[str, Call, tuple[Any, ...], dict[str, Any]], Any]

KILLED = 137
COUNTED = ("open", "write", "pwrite", "fsync", "rename", "replace", "link", "symlink", "unlink", "remove", "rmdir",
           "mkdir", "chmod", "truncate", "ftruncate", "copy_file_range", "sendfile", "utime")  # fmt: skip
WRITES = ("write", "pwrite")
_TAKES_SPACE = frozenset(
    {"open", "write", "pwrite", "fsync", "link", "mkdir", "copy_file_range", "rename"}
)


class Calls:
    """Hands every call that changes a file to ``handle``, until ``remove``."""

    def __init__(self, handle: Handler) -> None:
        self._handle = handle
        self._real: dict[str, Call] = {}
        self._open = io.open

    def install(self) -> None:
        for name in COUNTED:
            if hasattr(os, name):
                self._real[name] = getattr(os, name)
                setattr(os, name, self._wrapped(name, self._real[name]))
        builtins.open = io.open = self._opened  # type: ignore[assignment]

    def remove(self) -> None:
        for name, call in self._real.items():
            setattr(os, name, call)
        builtins.open = io.open = self._open

    def _wrapped(self, name: str, call: Call) -> Call:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if name == "open" and not _makes(args):
                return call(*args, **kwargs)
            if name in WRITES and not stat.S_ISREG(os.fstat(args[0]).st_mode):
                return call(*args, **kwargs)
            return self._handle(name, call, args, kwargs)

        return wrapped

    def _opened(
        self, file: Any, mode: str = "r", buffering: int = -1, *more: Any, **kw: Any
    ) -> Any:
        """Open a file whose writes go through ``os.write``, as those of ``io.FileIO`` do not."""
        if not set(mode) & set("wax+") or isinstance(file, int):
            return self._open(file, mode, buffering, *more, **kw)
        raw = _Raw(
            file, mode.replace("b", "").replace("t", ""), opener=lambda p, f: os.open(p, f, 0o666)
        )
        if buffering == 0:
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, *more, **kw)


class _Raw(io.FileIO):
    def write(self, part: Any) -> int:
        return os.write(self.fileno(), part)

    def truncate(self, size: int | None = None) -> int:
        size = self.tell() if size is None else size
        os.ftruncate(self.fileno(), size)
        return size


class Disk:
    """Stands before the calls once ``install`` was called; for good, so use a child process."""

    def __init__(self, at: int, fault: Fault) -> None:
        self.at, self.fault = at, fault
        self.count = 0
        self.over = False

    def install(self) -> None:
        Calls(self._handle).install()

    def _handle(self, name: str, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.over:
            return call(*args, **kwargs)
        self.count += 1
        if self.count == self.at:
            self._strike(name, call, args)
        if self.count > self.at and name in _TAKES_SPACE and self.fault in ("full", "broken"):
            self._fail()
        return call(*args, **kwargs)

    def _strike(self, name: str, call: Call, args: tuple[Any, ...]) -> None:
        if self.fault == "torn" and name in WRITES:
            call(args[0], bytes(args[1])[: len(args[1]) // 2], *args[2:])
        if self.fault in ("kill", "torn"):
            os._exit(KILLED)
        self._fail()

    def _fail(self) -> None:
        number = errno.EIO if self.fault in ("EIO", "broken") else errno.ENOSPC
        raise OSError(number, os.strerror(number))


def _makes(args: tuple[Any, ...]) -> bool:
    return bool(len(args) > 1 and args[1] & os.O_CREAT)
