"""A sink whose every offset is known before the first byte.

All tensors can be written in any order and from any thread. The file is a temporary sibling, its
space is reserved first (a full disk shows before the work, not after it), and it takes its final name
only when every byte was written.
"""

from __future__ import annotations

import errno
import os
import shutil
import zlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, local
from types import TracebackType
from typing import BinaryIO, Self, TypeAlias

from memcard.core.atomic import disk_errors, replacing
from memcard.core.checkpoint import Extent, aligned
from memcard.core.tensors import Specs
from memcard.core.writeback import start_writeback
from memcard.errors import MismatchError, NotFoundError, UnsupportedError
from memcard.formats._direct import WORTH, DirectFile, phase
from memcard.formats._source import check_range

COPY_CHUNK = 4 << 20
_CRC_CHUNK = 1 << 20  # stays in the processor's cache between the read and the checksum
# The kernel or the file system cannot copy between these two files.
_NO_KERNEL_COPY = frozenset(
    {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM}
)


@dataclass(frozen=True, slots=True)
class Plan:
    """Where everything goes."""

    size: int
    fixed: tuple[tuple[int, bytes], ...]  # offset and bytes that do not depend on the tensors
    places: Mapping[str, tuple[int, int]]  # tensor name to offset and size


Planner = Callable[[Specs, Mapping[str, str]], Plan]
Finisher = Callable[["PlannedSink", Plan], None]
Stage: TypeAlias = Callable[[Path], AbstractContextManager[BinaryIO]]


class PlannedSink:
    """See ``memcard.core.checkpoint.Sink``."""

    def __init__(
        self,
        path: Path,
        plan: Planner,
        finish: Finisher | None = None,
        *,
        stage: Stage = replacing,
    ) -> None:
        self.path = path
        self.notes: tuple[str, ...] = ()
        self.size = 0
        self._planner, self._finish, self._stage = plan, finish, stage
        self._plan: Plan | None = None
        self._stack = ExitStack()
        self._fd, self._part = -1, self.path
        self._direct: DirectFile | None = None
        self._written: dict[str, list[tuple[int, int]]] = {}
        self._lock, self._local = Lock(), local()

    @property
    def result(self) -> Path:
        """The file."""
        return self.path

    def begin(self, specs: Specs, metadata: Mapping[str, str]) -> None:
        """Plan the file and reserve its space."""
        if self._plan is not None:
            raise RuntimeError(f"{self.path}: begin is called twice")
        refuse_quantized(self.path, specs)
        plan = self._planner(specs, metadata)
        self.size = plan.size
        with disk_errors(self.path):
            file = self._stack.enter_context(self._stage(self.path))
            self._fd, self._part = file.fileno(), Path(file.name)
            if self._finish is None:  # a finisher reads it all again, from the cache
                self._direct = DirectFile.of(self._part)
            if self._direct is not None:
                self._stack.enter_context(self._direct)
            _reserve(self._fd, self.path, plan.size)
            for offset, part in plan.fixed:
                self._pwrite(memoryview(part), offset)
        self._plan = plan

    def write(self, name: str, part: memoryview, offset: int = 0) -> None:
        """Write a part of one tensor; thread-safe."""
        start, size = self._place(name)
        part = memoryview(part).cast("B") if part.nbytes else memoryview(b"")
        check_range(self.path, name, size, offset, len(part))
        with disk_errors(self.path):
            self._put(part, start + offset)
        self._note(name, offset, offset + len(part))

    def phase(self, name: str, offset: int) -> int:
        """See ``memcard.core.checkpoint.Phased``."""
        return 0 if self._direct is None else phase(self._place(name)[0] + offset)

    def copy(self, name: str, source: Extent) -> None:
        """Copy a whole tensor from another file, in the kernel where it can."""
        start, size = self._place(name)
        if source.size != size:
            raise MismatchError(
                f"{self.path}: {name!r} takes {size} bytes, {source.path} offers {source.size}."
            )
        with disk_errors(self.path), source.path.open("rb", buffering=0) as file:
            done = 0
            if self._direct is None or self._direct.clones or size < WORTH:
                done = _kernel_copy(file.fileno(), source.offset, self._fd, start, size)
            file.seek(source.offset + done)
            lead = self.phase(name, done)
            buffer = self._copy_buffer(lead + min(COPY_CHUNK, size - done))[lead:]
            while done < size:
                n = file.readinto(buffer[: size - done])
                if not n:
                    raise MismatchError(
                        f"{source.path}: ends inside {name!r}; it was changed while it was copied. "
                        "Try again when nothing writes to it."
                    )
                self._put(buffer[:n], start + done)
                done += n
        self._note(name, 0, size)

    def crc32(self, offset: int, size: int) -> int:
        """Return the checksum of a part of the unfinished file, for a finisher; thread-safe."""
        crc, buffer = 0, memoryview(bytearray(min(size, _CRC_CHUNK)))
        with self._part.open("rb", buffering=0) as file:
            file.seek(offset)
            while size:
                n = file.readinto(buffer[: min(size, _CRC_CHUNK)])
                if not n:
                    raise MismatchError(f"{self.path}: became shorter while it was written.")
                crc, size = zlib.crc32(buffer[:n], crc), size - n
        return crc

    def patch(self, offset: int, part: bytes) -> None:
        """Overwrite bytes of the unfinished file, for a finisher."""
        self._pwrite(memoryview(part), offset)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:  # an error in here removes the temporary file
            if self._plan is None:
                raise MismatchError(f"{self.path}: no tensors were announced; nothing was written.")
            self._check_complete(self._plan)
            if self._finish is not None:
                with disk_errors(self.path):
                    self._finish(self, self._plan)

    def _copy_buffer(self, size: int) -> memoryview:
        """Return memory of this thread, used again: fresh pages cost more than copying into them."""
        found: memoryview | None = getattr(self._local, "buffer", None)
        if found is None or len(found) < size:
            found = self._local.buffer = aligned(size)
        return found[:size]

    def _place(self, name: str) -> tuple[int, int]:
        if self._plan is None:
            raise RuntimeError(f"{self.path}: begin comes before write")
        try:
            return self._plan.places[name]
        except KeyError:
            raise NotFoundError(f"{self.path}: {name!r} was not announced by begin.") from None

    def _note(self, name: str, start: int, end: int) -> None:
        with self._lock:
            parts = self._written.setdefault(name, [])
            if parts and parts[-1][1] == start:
                parts[-1] = (parts[-1][0], end)
            else:
                parts.append((start, end))

    def _check_complete(self, plan: Plan) -> None:
        short = []
        for name, (_, size) in plan.places.items():
            reach = 0
            for start, end in sorted(self._written.get(name, ())):
                reach = max(reach, end) if start <= reach else reach
            if reach < size:
                short.append(f"{name!r} is complete up to byte {reach} of {size}")
        if short:
            more = f" and {len(short) - 5} more" if len(short) > 5 else ""
            raise MismatchError(
                f"{self.path}: {'; '.join(short[:5])}{more}. Nothing was kept of the file."
            )

    def _put(self, part: memoryview, offset: int) -> None:
        """Write past the cache what can go that way; the rest, or all of it, through the cache."""
        first, last = (0, 0) if self._direct is None else self._direct.write(part, offset)
        self._pwrite(part[:first], offset)
        self._pwrite(part[last:], offset + last)
        start_writeback(self._fd, offset + last, len(part) - last)

    def _pwrite(self, part: memoryview, offset: int) -> None:
        done = 0
        while done < len(part):
            if hasattr(os, "pwrite"):
                done += os.pwrite(self._fd, part[done : done + (1 << 30)], offset + done)
                continue
            with self._lock:  # Windows: one position per handle
                os.lseek(self._fd, offset + done, os.SEEK_SET)
                done += os.write(self._fd, part[done : done + COPY_CHUNK])


def refuse_quantized(path: Path, specs: Specs) -> None:
    """Do nothing, unless there are tensors of GGUF's packed blocks.

    Raises:
        UnsupportedError: names them; no other format has names for such dtypes.
    """
    faults = [f"{name!r} is {spec}" for name, spec in specs.items() if spec.dtype.quantized]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise UnsupportedError(
            f"{path}: only GGUF holds quantised blocks: {'; '.join(faults[:3])}{more}. "
            "--dtype fp16 dequantises them.",
            faults=faults,
        )


def _reserve(fd: int, path: Path, size: int) -> None:
    if size == 0:
        return
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(fd, 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF, errno.ENOSYS):
                raise
        else:
            return
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise OSError(errno.ENOSPC, f"needs {size} bytes, {free} are free")
    os.truncate(fd, size)


def _kernel_copy(source: int, offset: int, target: int, start: int, size: int) -> int:
    """Copy as much as the kernel will; return how much that was."""
    done = 0
    if not hasattr(os, "copy_file_range"):
        return done
    while done < size:
        most = min(COPY_CHUNK, size - done)  # in pieces, so that the disk begins with the first
        try:
            n = os.copy_file_range(source, target, most, offset + done, start + done)
        except OSError as error:
            if error.errno in _NO_KERNEL_COPY:
                return done
            raise
        if n == 0:
            return done
        start_writeback(target, start + done, n)
        done += n
    return done
