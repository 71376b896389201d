"""Everything the library wants to know of a file, from one read of it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import zstandard
from blake3 import blake3

from memcard.core.digest import read_once
from memcard.core.progress import Listener, silent
from memcard.errors import CorruptError, IntegrityError, NotFoundError
from memcard.store.layout import Layout
from memcard.store.manifest import Skeleton
from memcard.store.writer import Writer

Run: TypeAlias = tuple[int, int]  # offset and size in the file

MOST_SKELETON: Final = 64 << 20  # bytes; a header has 0.1 MB, a compressed archive is all skeleton
MOST_SECOND_SHA: Final = (
    512 << 20
)  # LoRAs, which is what AutoV3 is used for; larger files cost time
# A header of 37 kB: 3.4 kB in 4 ms at level 15, 4.5 kB in 0.04 ms at level 3.
_LEVEL, _LEVEL_OF_LARGE, _LARGE = 15, 3, 1 << 20


@dataclass(frozen=True, slots=True)
class Survey:
    """What one read of a file gave.

    Attributes:
        stat: of the file that was read.
        digests: ``sha256``, ``blake3``, and ``tensors_sha256`` where it was asked for.
        runs: BLAKE3 of each run.
        skeleton: digest and size of everything outside of the runs.
        bones: these bytes; None if they are more than ``MOST_SKELETON``.
    """

    stat: os.stat_result
    digests: Mapping[str, str]
    runs: Mapping[Run, str]
    skeleton: Skeleton
    bones: bytes | None


def disjoint(runs: Sequence[Run]) -> tuple[Run, ...]:
    """Return the runs that overlap none before them, in the order of the file, without empty ones."""
    ordered, found = sorted(run for run in set(runs) if run[1]), list[Run]()
    for offset, size in ordered:
        if not found or offset >= sum(found[-1]):
            found.append((offset, size))
    return tuple(found)


def survey(
    path: Path,
    runs: Sequence[Run],
    *,
    data_offset: int | None = None,
    progress: Listener = silent,
) -> Survey:
    """Read a file once.

    Args:
        path: the file.
        runs: where values of tensors lie; in order, disjoint, not empty.
        data_offset: where the tensors of a safetensors file begin; None for other formats.
        progress: hears how far it is.

    Raises:
        IntegrityError: the file changed while it was read.
        CorruptError: a run ends behind the end of the file.
    """
    parts, whole, third = _Parts(runs), hashlib.sha256(), blake3()
    takers = [
        lambda part, offset: whole.update(part),
        parts.take,
        lambda part, offset: third.update(part),
    ]
    tail = hashlib.sha256()
    start = data_offset
    if start is not None and path.stat().st_size <= MOST_SECOND_SHA:
        takers.append(lambda part, offset: tail.update(part[max(0, start - offset) :]))
    stat = read_once(path, *takers, phase="add", progress=progress)
    if len(parts.digests) != len(runs):
        raise CorruptError(f"{path}: a tensor ends behind the end of the file.")
    digests = {"sha256": whole.hexdigest(), "blake3": third.hexdigest()}
    if len(takers) > 3:
        digests["tensors_sha256"] = tail.hexdigest()
    skeleton, bones = parts.rest()
    return Survey(stat, digests, dict(zip(runs, parts.digests, strict=True)), skeleton, bones)


class _Parts:
    """Hashes the runs one by one, and collects what lies between them."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs = runs
        self.digests: list[str] = []
        self._run, self._between = blake3(), blake3()
        self._bones: bytearray | None = bytearray()
        self._size = 0

    def take(self, part: memoryview, offset: int) -> None:
        """Take the next chunk."""
        at, end = offset, offset + len(part)
        while at < end:
            start, size = self._next(end)
            stop = min(start, end) if at < start else min(start + size, end)
            piece = part[at - offset : stop - offset]
            if at < start:
                self._skeleton(piece)
            else:
                self._run.update(piece)
                if stop == start + size:
                    self.digests.append(self._run.hexdigest())
                    self._run = blake3()
            at = stop

    def rest(self) -> tuple[Skeleton, bytes | None]:
        """Return what was between the runs."""
        bones = None if self._bones is None else bytes(self._bones)
        return Skeleton(self._between.hexdigest(), self._size, bones is not None), bones

    def _next(self, end: int) -> Run:
        """Return the run that is being read or comes next; after the last one all is skeleton."""
        done = len(self.digests)
        return self._runs[done] if done < len(self._runs) else (end, 0)

    def _skeleton(self, piece: memoryview) -> None:
        self._between.update(piece)
        self._size += len(piece)
        if self._size > MOST_SKELETON:
            self._bones = None
        elif self._bones is not None:
            self._bones += piece


def put_bones(writer: Writer, skeleton: Skeleton, bones: bytes | None) -> None:
    """Store the bytes of a skeleton, unless they are there or too many."""
    if bones is None:
        return
    path = writer.layout.skeleton(skeleton.blake3)
    if not path.exists():
        level = _LEVEL if len(bones) <= _LARGE else _LEVEL_OF_LARGE
        writer.write(path, zstandard.ZstdCompressor(level=level).compress(bones))


def get_bones(layout: Layout, skeleton: Skeleton) -> bytes:
    """Return the bytes of a skeleton.

    Raises:
        NotFoundError: the library does not have them.
        IntegrityError: they are not those that were stored.
        CorruptError: the file is not what the specification says.
    """
    path = layout.skeleton(skeleton.blake3)
    if skeleton.size > MOST_SKELETON:  # a frame says itself how much memory it wants
        raise CorruptError(f"{path}: {skeleton.size} bytes are too many for a skeleton.")
    try:
        with path.open("rb") as file:
            packed = file.read(MOST_SKELETON + (1 << 20))
    except FileNotFoundError:
        raise NotFoundError(f"{path}: the library does not have this skeleton.") from None
    try:
        if zstandard.get_frame_parameters(packed).content_size != skeleton.size:
            raise CorruptError(f"{path}: is of another size than its manifest says.")
        bones = zstandard.ZstdDecompressor().decompress(packed, max_output_size=skeleton.size)
    except zstandard.ZstdError as error:
        raise CorruptError(f"{path}: {error}. Add the checkpoint again.") from None
    if blake3(bones).hexdigest() != skeleton.blake3:
        raise IntegrityError(f"{path}: other bytes than were stored. Add the checkpoint again.")
    return bytes(bones)
