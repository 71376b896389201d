"""Writing a pack: objects block by block, then the footer; the file appears whole, under its own digest."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Self, TypeAlias

from blake3 import blake3

from memcard.codecs import CODECS
from memcard.core.atomic import disk_errors, nameless
from memcard.errors import IntegrityError, UsageError
from memcard.store import _pack_layout as layout
from memcard.store._pack_layout import Blocks, Kind, Mode, PackedObject
from memcard.store.writer import PACK_PART, ensure_folder

ReadValues: TypeAlias = Callable[[int, memoryview], None]
"""Fills the given memory with the values from this byte on."""

_ALONE = "planes_ans"  # which looks for the best form of each plane by itself
_WITH_BASE = "delta_ans"
_SAMPLE = 1 << 14  # values by which the size of an object is estimated
WORTH = 0.95  # of the size alone: a difference must be that much smaller
_SURELY = 0.6  # of the size as it is: alone, weights of no dtype are smaller
_PAYS = 0.98  # of the size as it is: less gain than that is not worth the decoding
_SMALL = 1 << 16  # bytes; to hand less to another thread takes longer than to encode it
_TINY = 256  # bytes; below that a block is kept as it is


@dataclass(frozen=True, slots=True)
class BaseRef:
    """What an object is a difference to.

    Attributes:
        key: of the base, or of the recipe; 64 hex digits.
        read: gives its values, as many bytes as the object has.
        depth: of the base itself; 0 stands alone.
    """

    key: str
    read: ReadValues
    depth: int = 0


@dataclass(frozen=True, slots=True)
class _Values:
    """What is to be stored, and where it is read from."""

    size: int
    item: int
    read: ReadValues
    base: BaseRef | None

    def pays(self) -> bool:
        """Whether a few values are smaller as differences to the base than by themselves."""
        base = self.base
        assert base is not None  # noqa: S101  # asked for those with a base only
        few = sampled(self.read, self.size, self.item)
        there = sampled(base.read, self.size, self.item)
        change = cost(few, self.item, there)
        return few == there or change < _SURELY or change < WORTH * cost(few, self.item)


@dataclass(frozen=True, slots=True)
class _Packed:
    mode: Mode
    stored: bytes | memoryview
    check: bytes
    values: memoryview
    buffer: bytearray  # that holds them; to be used again


class PackWriter:
    """A context manager. ``commit`` makes the file appear; without it nothing is left.

    One thread calls it; blocks are encoded on ``threads`` threads.
    """

    def __init__(self, folder: Path, *, threads: int = 1) -> None:
        self.folder, self.threads = folder, threads
        self.size = 0
        self._objects: dict[str, PackedObject] = {}
        self._digest = blake3()
        # Fresh memory must be cleared by the system page by page: that takes longer than reading into it.
        self._spare: list[bytearray] = []
        self._stack = ExitStack()
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        with disk_errors(self.folder):
            ensure_folder(self.folder)
        with ExitStack() as stack:
            self._file, self._settle = stack.enter_context(nameless(self.folder, PACK_PART))
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
        values = _Values(size, item, read, base)
        if weigh and base is not None and size and not values.pays():
            values = replace(values, base=None)
        base = values.base
        plan = PackedObject(
            key=key,
            kind=kind,
            size=size,
            item=item,
            codec=codec or ("raw" if size < _TINY else _WITH_BASE if base else _ALONE),
            base=base.key if base else None,
            depth=base.depth + 1 if base else 0,
            at=self.size,
            blocks=Blocks(b"", 0),
        )
        whole, start = blake3(), self.size
        try:
            self._write(layout.head(plan))
            table = b"".join(self._encoded(plan, values, whole))
            _check_key(key, whole.hexdigest())
        except BaseException:
            self._file = None  # the file now holds a part of an object: nothing may follow it
            raise
        made = replace(plan, blocks=Blocks(table, start + len(layout.head(plan))))
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

    def _write(self, raw: bytes | memoryview) -> None:
        if self._file is None:
            raise UsageError("this pack is finished or was given up; begin another one.")
        view = memoryview(raw)
        while view:  # a raw file may take less than it is given
            with disk_errors(self.folder):
                done = self._file.write(view)
            view = view[done:]
        self._digest.update(raw)
        self.size += len(raw)

    def _encoded(self, plan: PackedObject, values: _Values, whole: blake3) -> Iterator[bytes]:
        """Encode blocks on several threads, write them in order, yield their lines for the table."""
        waiting: deque[Future[_Packed]] = deque()

        def finish() -> bytes:
            return keep(waiting.popleft().result())

        def keep(packed: _Packed) -> bytes:
            whole.update(packed.values)
            line = layout.frame(len(packed.stored), packed.mode, packed.check)
            self._write(line)
            self._write(packed.stored)
            self._spare.append(packed.buffer)
            return line

        try:
            for index in range(layout.block_count(plan.size, plan.item)):
                buffer = self._spare.pop() if self._spare else bytearray(0)
                place = plan.extent(index)
                if plan.size <= _SMALL:
                    yield keep(_pack(values, place, buffer, plan.codec))
                    continue
                waiting.append(self._pool.submit(_pack, values, place, buffer, plan.codec))
                if len(waiting) > self.threads:
                    yield finish()
            while waiting:
                yield finish()
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


def _pack(values: _Values, place: tuple[int, int], buffer: bytearray, codec: str) -> _Packed:
    """Read a block and encode it."""
    (offset, size), item, base = place, values.item, values.base
    if len(buffer) < size * (2 if base else 1):
        buffer = bytearray(size * (2 if base else 1))
    part = memoryview(buffer)[:size]
    values.read(offset, part)
    there = memoryview(buffer)[size : 2 * size] if base else None
    check = blake3(part).digest(16)
    if base is not None and there is not None:
        base.read(offset, there)
        if there == part:
            return _Packed("same", b"", check, part, buffer)
    if codec != "raw" and size >= _TINY:
        plugin = CODECS[codec]
        packed = plugin.encode(part, item, there if plugin.needs_base else None)
        if len(packed) < _PAYS * size:
            return _Packed("codec", packed, check, part, buffer)
    return _Packed("raw", part, check, part, buffer)


def estimate(
    read: ReadValues, size: int, item: int, base: ReadValues | None = None
) -> tuple[float, float]:
    """Return the share of its size that an object would take alone, and as a difference to a base.

    Looks at what ``sampled`` reads of both.

    Returns:
        Two shares in 0..1; the second one is 1 without a base.
    """
    few = sampled(read, size, item)
    there = None if base is None else sampled(base, size, item)
    return cost(few, item), 1.0 if there is None else cost(few, item, there)


def sampled(read: ReadValues, size: int, item: int) -> bytes:
    """Read up to 16,384 values, of more four stretches of the first block that do not overlap.

    They lie in one block because a packed base is decoded block by block.
    """
    values = min(size // item, layout.BLOCK_VALUES)
    whole = values <= _SAMPLE  # twice the same values would look as if they compressed well
    each = values if whole else _SAMPLE // 4
    starts = ([0] if values else []) if whole else [(values - each) * i // 3 for i in range(4)]
    out = bytearray(each * item * len(starts))
    for i, start in enumerate(starts):
        read(start * item, memoryview(out)[i * each * item : (i + 1) * each * item])
    return bytes(out)


def cost(few: bytes, item: int, there: bytes | None = None) -> float:
    """Return the share of their size that values would take, alone or as differences to others."""
    if not few:
        return 1.0
    codec = CODECS[_ALONE if there is None else _WITH_BASE]
    base = None if there is None else memoryview(there)
    return min(1.0, len(codec.encode(memoryview(few), item, base)) / len(few))
