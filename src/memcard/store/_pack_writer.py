"""Writing a pack: objects block by block, then the footer; the file appears whole, under its own digest."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Self

from blake3 import blake3

from memcard.core.atomic import disk_errors, nameless
from memcard.errors import IntegrityError, UsageError
from memcard.store import _pack_layout as layout
from memcard.store._pack_blocks import (
    ALONE,
    TINY,
    WITH_BASE,
    WORTH,
    BaseRef,
    Encoded,
    ReadValues,
    Values,
    Weighed,
    cost,
    encoded,
    estimate,
    sampled,
    weighed,
)  # fmt: skip
from memcard.store._pack_layout import Blocks, Kind, PackedObject
from memcard.store._stream import Stream
from memcard.store.writer import PACK_PART, ensure_folder

__all__ = ["WORTH", "BaseRef", "PackWriter", "ReadValues", "cost", "estimate", "sampled"]

_SMALL = 1 << 16  # bytes; to hand less to another thread takes longer than to encode it


class PackWriter:
    """A context manager. ``commit`` makes the file appear; without it nothing is left.

    One thread calls it; blocks are encoded on ``threads`` threads.
    """

    def __init__(self, folder: Path, *, threads: int = 1) -> None:
        self.folder, self.threads = folder, threads
        self._objects: dict[str, PackedObject] = {}
        self._digest = blake3()
        self._size = 0
        # Fresh memory must be cleared by the system page by page: that takes longer than reading into it.
        self._spare: list[bytearray] = []
        self._stack = ExitStack()
        self._file: Stream | None = None

    @property
    def size(self) -> int:
        """Bytes of the file by now."""
        return self._size

    def __enter__(self) -> Self:
        with disk_errors(self.folder):
            ensure_folder(self.folder)
        with ExitStack() as stack:
            file, self._settle = stack.enter_context(nameless(self.folder, PACK_PART))
            self._file = Stream(file, self.folder, self._digest.update)
            self._pool = stack.enter_context(ThreadPoolExecutor(self.threads))
            self._write(layout.HEADER.pack(layout.MAGIC, layout.VERSION, 0))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._file = None
        self._stack.__exit__(type(error) if error else None, error, trace)  # type: ignore[arg-type]

    def __contains__(self, key: object) -> bool:
        return key in self._objects

    def add(
        self,
        key: str,
        size: int,
        read: ReadValues,
        *,
        item: int = 1,
        kind: Kind = "tensor",
        codec: str | None = None,
        base: BaseRef | None = None,
        weigh: bool = False,
    ) -> PackedObject:
        """Append an object; one that is there already is not written again.

        Args:
            key: BLAKE3 of its bytes, 64 hex digits.
            size: in bytes.
            read: called for each block, from any thread.
            item: bytes of a value: 1, 2, 4 or 8.
            kind: what it is.
            codec: name of a codec; None: the best there is, with a base or without.
            base: what it is stored as a difference to.
            weigh: do so only where that is smaller, as far as a few values tell.

        Raises:
            IntegrityError: the bytes do not have this key.
            UsageError: the arguments contradict each other, or too many bases would be needed.
            DiskError: the disk is full or failing.
        """
        if key in self._objects:
            return self._objects[key]
        _check_arguments(key, size, item, base)
        known = Weighed(Values(size, item, read, base))
        if weigh and base is not None and size:
            known = weighed(known.values)
        base = known.values.base
        plan = PackedObject(
            key=key,
            kind=kind,
            size=size,
            item=item,
            codec=codec or ("raw" if size < TINY else WITH_BASE if base else ALONE),
            base=base.key if base else None,
            depth=base.depth + 1 if base else 0,
            at=self.size,
            blocks=Blocks(b"", 0),
        )
        start, head = self.size, layout.head(plan)
        try:
            self._write(head)
            table = self._blocks(plan, known)
        except BaseException:
            self._file = None  # the file now holds a part of an object: nothing may follow it
            raise
        made = replace(plan, blocks=Blocks(table, start + len(head)))
        assert made.blocks.end == self.size  # noqa: S101  # what is proven lies where readers look for it
        self._objects[key] = made
        return made

    def commit(self) -> Path:
        """Write the footer and give the file its name; return its path.

        Raises:
            UsageError: there is no object.
            DiskError: the disk is full or failing.
        """
        if not self._objects and self._file is not None:
            raise UsageError(f"{self.folder}: a pack without objects is not written.")
        place, raw = self.size, layout.footer(tuple(self._objects.values()))
        self._write(raw + layout.trailer(place, raw, len(self._objects)))
        self._stream().finish()
        name = self._digest.hexdigest()
        path = self.folder / name[:2] / f"{name}.pack"
        with disk_errors(path):
            self._settle(path)
        self._file = None
        return path

    def append(self, one: PackedObject, raw: Iterator[memoryview]) -> PackedObject:
        """Append an object as another pack has it, without decoding it.

        Args:
            one: of the other pack.
            raw: its bytes from there, head and all.
        """
        if one.key in self._objects:
            return self._objects[one.key]
        start = self.size
        for part in raw:
            self._write(part)
        if self.size - start != one.stored:
            self._file = None
            raise UsageError(f"{one.key}: {self.size - start} bytes were given, not {one.stored}.")
        moved = Blocks(one.blocks.table, one.blocks.start - one.at + start)
        made = replace(one, at=start, blocks=moved)
        self._objects[one.key] = made
        return made

    def _stream(self) -> Stream:
        if self._file is None:
            raise UsageError("this pack is finished or was given up; begin another one.")
        return self._file

    def _write(self, raw: bytes | memoryview) -> None:
        self._stream().write(raw)
        self._size += len(raw)

    def _blocks(self, plan: PackedObject, known: Weighed) -> bytes:
        """Write the blocks of an object, see that it has its key; return its table."""
        several = layout.block_count(plan.size, plan.item) != 1
        whole, lines = blake3(), []
        for block in self._encoded(plan, known):
            line = layout.frame(len(block.stored), block.mode, block.digest[: layout.CHECK])
            self._write(line)
            self._write(block.stored)
            lines.append(line)
            if several:
                whole.update(block.values)
            else:
                _check_key(plan.key, block.digest.hex())
            self._spare.append(block.buffer)
        if several:
            _check_key(plan.key, whole.hexdigest())
        return b"".join(lines)

    def _encoded(self, plan: PackedObject, known: Weighed) -> Iterator[Encoded]:
        """Encode blocks on several threads; yield them in order."""
        waiting: deque[Future[Encoded]] = deque()
        try:
            for index in range(layout.block_count(plan.size, plan.item)):
                buffer = self._spare.pop() if self._spare else bytearray(0)
                place = plan.extent(index)
                if plan.size <= _SMALL:
                    yield encoded(known, place, buffer, plan.codec)
                    continue
                waiting.append(self._pool.submit(encoded, known, place, buffer, plan.codec))
                if len(waiting) > self.threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # after a fault nothing may still be reading from what the caller closes
            wait(waiting)


def _check_arguments(key: str, size: int, item: int, base: BaseRef | None) -> None:
    for name in (key, base.key if base else key):
        if len(name) != 2 * len(layout.NO_KEY) or set(name) - set("0123456789abcdef"):
            raise UsageError(f"{name!r} is no key; a key is 64 lower-case hex digits.")
    if item not in layout.ITEMS or size % item or not 0 <= size <= layout.SIZE_MOST:
        raise UsageError(f"{key}: {size} bytes are not values of {item} bytes each.")
    if base is not None and base.depth >= layout.DEPTH_MOST:
        raise UsageError(
            f"{key}: its base needs {base.depth} others already, and {layout.DEPTH_MOST} is the most; "
            "store it against one that stands alone."
        )


def _check_key(key: str, found: str) -> None:
    if found != key:
        raise IntegrityError(
            f"{key}: the bytes given for this object are {found}. The file they come from has changed "
            "since its digest was taken; take it again."
        )
