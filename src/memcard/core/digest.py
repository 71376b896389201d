"""Digests by which the ecosystem knows a file: all of them from one read, on two cores.

The two SHA-256 (of the whole file, and of what follows a safetensors header) are the work; BLAKE3 and
CRC32 are four times as fast. No digest can be split, so threads take turns: each takes the next chunk
of the digest that is furthest behind. hashlib, blake3 and zlib let other threads run meanwhile.

All digests are written in lower case, as A1111 shows them; Civitai shows upper case.

Sources: A1111 ``modules/sd_models.py`` and ``modules/hashes.py`` (AutoV1, AutoV2), kohya
``train_util.py`` (``sshs_model_hash``), Civitai's ``ModelHashType`` (AutoV1 to V3, BLAKE3, CRC32).
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from threading import Condition, Thread
from typing import Final

from memcard.core.progress import Listener, Progress, silent
from memcard.errors import IntegrityError

CHUNK: Final = 2 << 20  # bytes; calls cost nothing beside a chunk, and the ring stays in the cache
RING: Final = 8  # chunks in memory: 16 MiB
NAMES: Final = ("sha256", "autov1", "autov2", "autov3", "tensors_sha256", "blake3", "crc32")

_AUTOV1_START: Final = 1 << 20
_AUTOV1_END: Final = _AUTOV1_START + (64 << 10)
_NEEDS: Final = {"autov2": "sha256", "autov3": "tensors_sha256"}  # the first digits of another
_THREADS: Final = 4  # four chains at most have work


def sha256_file(path: Path, progress: Listener = silent) -> str:
    """Return the SHA-256 of a whole file in hex; memory stays at 16 MiB.

    Raises:
        IntegrityError: the file changed while it was read.
    """
    return _one_read(path, None, ("sha256",), "sha256", progress)["sha256"]


def digests_file(
    path: Path,
    *,
    data_offset: int | None = None,
    only: Collection[str] = NAMES,
    progress: Listener = silent,
) -> dict[str, str]:
    """Return the digests by which a file is known, from one read; memory stays at 16 MiB.

    Args:
        path: the file.
        data_offset: where the tensors of a safetensors file begin. None: ``autov3`` and
            ``tensors_sha256`` are left out, as they are of no other format.
        only: which digests; fewer are faster.
        progress: hears how far it is, from the calling thread.

    Returns:
        Lower-case hex, in the order of ``NAMES``:

        - ``sha256``: of the whole file.
        - ``autov1``: first 8 digits of the SHA-256 of the 64 KiB at 1 MiB. Different models often
          share one. Of a file of 1 MiB or less it is that of nothing, ``e3b0c442``, as in A1111.
        - ``autov2``: first 10 digits of ``sha256``.
        - ``autov3``: first 12 digits of ``tensors_sha256``.
        - ``tensors_sha256``: of everything after the header, so an edited header does not change
          it; kohya's ``sshs_model_hash``.
        - ``blake3``: of the whole file, 64 digits.
        - ``crc32``: of the whole file, 8 digits.

    Raises:
        IntegrityError: the file changed while it was read.
    """
    return _one_read(path, data_offset, only, "digests", progress)


def _one_read(
    path: Path, data_offset: int | None, only: Collection[str], phase: str, progress: Listener
) -> dict[str, str]:
    wanted = {_NEEDS.get(name, name) for name in only}
    with path.open("rb", buffering=0) as file:
        before = _identity(os.fstat(file.fileno()))
        chains = {chain.name: chain for chain in _chains(data_offset) if chain.name in wanted}
        if not chains:
            return {}
        reading = _Read(file, before[0], tuple(chains.values()))
        reading.run(lambda done: progress(Progress(phase, done, before[0])))
        unchanged = _identity(os.fstat(file.fileno())) == before and _still(path, before)
    if not unchanged or reading.size_read != before[0]:
        raise IntegrityError(
            f"{path}: changed while it was read. Try again when nothing writes to it."
        )
    found = {name: chain.hexdigest() for name, chain in chains.items()}
    for name, whole, digits in (("autov2", "sha256", 10), ("autov3", "tensors_sha256", 12)):
        if whole in found:
            found[name] = found[whole][:digits]
    return {name: found[name] for name in NAMES if name in found and name in only}


def _identity(stat: os.stat_result) -> tuple[int, int, int, int]:
    return stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_dev


def _still(path: Path, before: tuple[int, int, int, int]) -> bool:
    """Tell whether the name still leads to the file that was read."""
    try:
        return _identity(path.stat()) == before
    except FileNotFoundError:
        return False


class _Crc32:
    """zlib's checksum with the manners of hashlib."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, part: memoryview) -> None:
        self._value = zlib.crc32(part, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:08x}"


@dataclass(slots=True, eq=False)
class _Chain:
    """One digest on its way through the file, or through a part of it."""

    name: str
    update: Callable[[memoryview], object]
    hexdigest: Callable[[], str]
    start: int = 0
    end: int | None = None
    at: int = 0  # the chunk it takes next
    busy: bool = False

    def take(self, part: memoryview, offset: int) -> None:
        """Hash what of ``part``, which is at ``offset`` in the file, belongs to it."""
        first = max(0, self.start - offset)
        last = len(part) if self.end is None else min(len(part), self.end - offset)
        if first < last:
            self.update(part[first:last])


def _chains(data_offset: int | None) -> Iterator[_Chain]:
    from blake3 import blake3

    whole, early, third, crc = hashlib.sha256(), hashlib.sha256(), blake3(), _Crc32()
    yield _Chain("sha256", whole.update, whole.hexdigest)
    if data_offset is not None:
        tail = hashlib.sha256()
        yield _Chain("tensors_sha256", tail.update, tail.hexdigest, start=data_offset)
    yield _Chain("blake3", third.update, third.hexdigest)
    yield _Chain("crc32", crc.update, crc.hexdigest)
    yield _Chain("autov1", early.update, lambda: early.hexdigest()[:8], _AUTOV1_START, _AUTOV1_END)


class _Read:
    """One pass over a file: a ring of chunks, filled by and hashed by whichever thread is free."""

    def __init__(self, file: FileIO, size: int, chains: tuple[_Chain, ...]) -> None:
        self._file, self._size, self._chains = file, size, chains
        self._ring = [memoryview(bytearray(min(CHUNK, size + 1))) for _ in range(self._slots(size))]
        self._parts: list[memoryview] = [part[:0] for part in self._ring]
        self._change = Condition()
        self._filled = 0  # chunks read
        self._ended = self._reading = False
        self._error: BaseException | None = None
        self.size_read = 0
        self.done = 0  # bytes that all digests have behind them
        self._told = -1

    @staticmethod
    def _slots(size: int) -> int:
        return min(RING, size // CHUNK + 1)

    def run(self, progress: Callable[[int], None]) -> None:
        """Read to the end; raises what a thread met."""
        count = min(_THREADS, max(2, os.cpu_count() or 1), len(self._chains) + 1)
        if self._size < CHUNK:  # threads would cost more than the work
            self._work()
            count = 0
        threads = [Thread(target=self._work, daemon=True) for _ in range(count)]
        try:
            for thread in threads:
                thread.start()
            self._watch(progress)
        except BaseException as error:
            self._stop(error)
            raise
        finally:
            for thread in threads:
                thread.join()
        if self._error is not None:
            raise self._error

    def _watch(self, progress: Callable[[int], None]) -> None:
        """Report from the calling thread until all is done."""
        over = False
        while not over:
            with self._change:
                self._change.wait_for(lambda: self.done != self._told or self._over())
                self._told, over = self.done, self._over()
            progress(self._told)

    def _over(self) -> bool:
        hashed = self._ended and self._behind() >= self._filled
        return hashed or self._error is not None

    def _behind(self) -> int:
        """Return the first chunk that some digest still needs."""
        return min(chain.at for chain in self._chains)

    def _stop(self, error: BaseException) -> None:
        with self._change:
            self._error = self._error or error
            self._change.notify_all()

    def _work(self) -> None:
        try:
            while self._turn():
                pass
        except BaseException as error:  # noqa: BLE001  # raised again by the calling thread
            self._stop(error)

    def _turn(self) -> bool:
        """Do one piece of work; False when there is none left."""
        with self._change:
            self._change.wait_for(lambda: self._over() or self._can_read() or self._ready())
            if self._over():
                return False
            chain = None if self._can_read() else self._ready()[0]
            if chain is None:
                self._reading = True
            else:
                chain.busy = True
        if chain is None:
            self._fill()
        else:
            chain.take(self._parts[chain.at % len(self._ring)], chain.at * CHUNK)
            self._finish(chain)
        return True

    def _can_read(self) -> bool:
        free = self._filled - self._behind() < len(self._ring)
        return free and not self._ended and not self._reading

    def _ready(self) -> list[_Chain]:
        """Return the digests that can go on, the one furthest behind first."""
        ready = [c for c in self._chains if not c.busy and c.at < self._filled]
        return sorted(ready, key=lambda chain: chain.at)

    def _fill(self) -> None:
        slot = self._filled % len(self._ring)
        buffer, size = self._ring[slot], 0
        while size < len(buffer) and (n := self._file.readinto(buffer[size:])):
            size += n
        with self._change:
            self._parts[slot] = buffer[:size]
            self._reading = False
            self._filled += size > 0
            self.size_read += size
            # A file that only ever grows has no end; one byte too many is enough to refuse it.
            self._ended = size < len(buffer) or self.size_read > self._size
            self._tell()

    def _finish(self, chain: _Chain) -> None:
        with self._change:
            chain.busy = False
            chain.at += 1
            if chain.end is not None and chain.at * CHUNK >= chain.end:
                chain.at = self._size // CHUNK + 2  # needs no further chunk
            self._tell()

    def _tell(self) -> None:
        self.done = min(self._behind() * CHUNK, self.size_read)
        self._change.notify_all()


class _Taker(_Chain):
    """Someone who takes all chunks in order and makes of them what he likes."""

    __slots__ = ("_taken_by",)

    def __init__(self, taken_by: Callable[[memoryview, int], object]) -> None:
        super().__init__("", lambda part: None, str)
        self._taken_by = taken_by

    def take(self, part: memoryview, offset: int) -> None:
        """Pass the chunk on."""
        self._taken_by(part, offset)


def read_once(
    path: Path,
    *takers: Callable[[memoryview, int], object],
    phase: str = "read",
    progress: Listener = silent,
) -> os.stat_result:
    """Give all chunks of a file, in order, to each taker, from one read; memory stays at 16 MiB.

    Args:
        path: the file.
        takers: called with a chunk and its offset; each from one thread at a time, all at once from
            several. A chunk is overwritten after all have returned.
        phase: what ``progress`` is told this is.
        progress: hears how far it is, from the calling thread.

    Returns:
        What the system says of the file that was read.

    Raises:
        IntegrityError: the file changed while it was read.
    """
    with path.open("rb", buffering=0) as file:
        stat = os.fstat(file.fileno())
        before = _identity(stat)
        reading = _Read(file, before[0], tuple(_Taker(taker) for taker in takers))
        reading.run(lambda done: progress(Progress(phase, done, before[0])))
        unchanged = _identity(os.fstat(file.fileno())) == before and _still(path, before)
    if not unchanged or reading.size_read != before[0]:
        raise IntegrityError(
            f"{path}: changed while it was read. Try again when nothing writes to it."
        )
    return stat
