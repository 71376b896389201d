"""Packs: immutable files of compressed objects, each readable by itself, from any byte on.

A pack is found damaged before any wrong byte is handed on: every block carries a digest of its values, the
file is called by its own. A lost footer is rebuilt from the objects, which say themselves what they are.
Specified in ``docs/spec/pack.md``.
"""

from __future__ import annotations

import os
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final, Self, TypeAlias

from blake3 import blake3

from memcard.codecs import CODECS
from memcard.core.atomic import disk_errors
from memcard.core.codec import Codec
from memcard.errors import (
    CorruptError,
    IntegrityError,
    MemcardError,
    MismatchError,
    NotFoundError,
    UnsupportedError,
    UsageError,
)
from memcard.store import _pack_layout as layout
from memcard.store import _pack_memory as memory
from memcard.store._pack_layout import Block, PackedObject
from memcard.store._pack_memory import keeping, unchecked
from memcard.store._pack_writer import WORTH, BaseRef, PackWriter, cost, estimate, sampled
from memcard.store._stream import read_back

__all__ = [
    "WORTH", "BaseReader", "BaseRef", "Block", "Pack", "PackWriter", "PackedObject", "cost", "estimate",
    "keeping", "reader_of", "sampled", "unchecked",
]  # fmt: skip

BaseReader: TypeAlias = Callable[[str, int, memoryview], None]
"""Fills the given memory with the bytes of the object of this key, from this offset on."""

_PIECE: Final = 4 << 20
_WINDOWS: Final = threading.Lock()  # there a handle has one position
_FLAGS: Final = os.O_RDONLY | getattr(os, "O_BINARY", 0)
_MOST_OPEN: Final = 200  # packs that nobody reads just now and that stay open
_HANDLES: Final = threading.Lock()
_IDLE: OrderedDict[Pack, None] = OrderedDict()  # the one that was read last is the last


class Pack:
    """A pack that is open for reading; any number of threads may use it.

    Attributes:
        path: of the file.
        name: BLAKE3 of the file as its name tells it, 64 hex digits.
        objects: by key, in the order they were written.
        faults: what is wrong with the footer, if it had to be rebuilt; else empty.
    """

    def __init__(self, path: Path, fd: int) -> None:
        self.path, self.name, self._fd, self._users = path, path.stem, fd, 0
        self.faults: tuple[str, ...] = ()
        self._mark = object()
        try:
            self.objects: Mapping[str, PackedObject] = self._open()
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a pack; reads its footer only.

        Raises:
            CorruptError: it is no pack.
            UnsupportedError: a newer memcard wrote it.
        """
        return cls(path, os.open(path, _FLAGS))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        with _HANDLES:
            _IDLE.pop(self, None)
            self._users = -1
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    @property
    def rebuilt(self) -> bool:
        """Tell if the footer was damaged, so that the objects were found by reading all heads."""
        return bool(self.faults)

    def read(
        self,
        key: str,
        offset: int,
        out: memoryview,
        base_reader: BaseReader | None = None,
        *,
        checked: bool = True,
    ) -> None:
        """Fill ``out`` with the bytes of an object from ``offset`` on.

        Only the blocks this touches are read, decoded and checked. On an error ``out`` holds nothing useful.

        Args:
            key: of the object.
            offset: in bytes of the object.
            out: as many bytes as are wanted.
            base_reader: gives the bytes of a base; only for objects that have one.
            checked: False only for a base whose difference will be checked.

        Raises:
            NotFoundError: the pack has no such object.
            IntegrityError: the bytes are not what was stored.
            MismatchError: a base is needed and there is no reader for it.
        """
        one = self._object(key)
        if not 0 <= offset <= offset + len(out) <= one.size:
            raise UsageError(
                f"{key}: bytes {offset} to {offset + len(out)} are asked for, it has {one.size}."
            )
        done = 0
        while done < len(out):
            index = (offset + done) // one.block_bytes
            begin, size = one.extent(index)
            skip = offset + done - begin
            part = min(size - skip, len(out) - done)
            if part == size:
                self._decode(one, index, out[done : done + size], base_reader, checked=checked)
            else:
                out[done : done + part] = self._whole(one, index, base_reader)[skip : skip + part]
            done += part

    def get(self, key: str, base_reader: BaseReader | None = None) -> bytes:
        """Return all bytes of a small object."""
        out = bytearray(self._object(key).size)
        self.read(key, 0, memoryview(out), base_reader)
        return bytes(out)

    def verify(
        self,
        base_reader: BaseReader | None = None,
        progress: Callable[[int], None] = lambda done: None,
    ) -> tuple[str, ...]:
        """Read all of the file; return what is wrong with it, one sentence each.

        The file is compared with its name; then every object is decoded and compared with its key. Objects
        with a base are decoded only if there is a reader for bases.

        Args:
            base_reader: gives the bytes of a base.
            progress: called with the bytes of the file that are done.
        """
        faults = list(self.faults)
        whole, at = blake3(), 0
        with self._handle() as fd:
            size = os.fstat(fd).st_size
        for part in self._stretch(0, size):
            whole.update(part)
            at += len(part)
            progress(at)
        if whole.hexdigest() != self.name:
            faults.append(
                f"{self.path}: the file's digest is {whole.hexdigest()}, not its name. It was damaged or "
                "changed; `memcard repair` looks for other copies of what it holds."
            )
        for one in self.objects.values():
            if one.base is None or base_reader is not None:
                faults += self._faults_of(one, base_reader)
        return tuple(faults)

    def is_intact(self) -> bool:
        """Read all of the file, from the disk itself where that is possible; tell whether it has its name.

        Raises:
            DiskError: the disk fails.
        """
        whole = blake3()
        for part in read_back(self.path):
            whole.update(part)
        return whole.hexdigest() == self.name

    def check(self, key: str, base_reader: BaseReader | None = None) -> None:
        """Read, decode and check every block of an object.

        Raises:
            IntegrityError: the bytes are not what was stored.
            MismatchError: a base is needed and there is no reader for it.
        """
        one = self._object(key)
        for index in range(len(one.blocks)):
            part = memory.scratch("verified", one.extent(index)[1])
            self._decode(one, index, part, base_reader)

    def copy(self, key: str, writer: PackWriter) -> PackedObject:
        """Append an object to another pack as it is, without decoding it; it is not checked."""
        one = self._object(key)
        return writer.append(one, self._stretch(one.at, one.stored))

    def _faults_of(self, one: PackedObject, base_reader: BaseReader | None) -> Iterator[str]:
        whole = blake3()
        try:
            for index in range(len(one.blocks)):
                part = memory.scratch("verified", one.extent(index)[1])
                self._decode(one, index, part, base_reader)
                whole.update(part)
        except MemcardError as error:
            yield str(error)
            return
        if whole.hexdigest() != one.key:
            yield (
                f"{self.path}: object {one.key} decodes to {whole.hexdigest()}: it was not what its writer "
                "said. `memcard repair` looks for another copy."
            )

    def _object(self, key: str) -> PackedObject:
        try:
            return self.objects[key]
        except KeyError:
            raise NotFoundError(f"{self.path}: there is no object {key}.") from None

    def _whole(self, one: PackedObject, index: int, base_reader: BaseReader | None) -> memoryview:
        """Return a block, kept for the next read of this thread."""
        part = memory.last_block((self._mark, one.key, index))
        if part is None:
            part = memoryview(bytearray(one.extent(index)[1]))
            self._decode(one, index, part, base_reader)
            if not memory.is_unchecked():
                memory.keep_last((self._mark, one.key, index), part)
        return part

    def _decode(
        self,
        one: PackedObject,
        index: int,
        out: memoryview,
        base_reader: BaseReader | None,
        *,
        checked: bool = True,
    ) -> None:
        begin = one.extent(index)[0]
        kept = memory.kept_block(one.key, begin, len(out))
        if kept is None:
            self._unpack(one, index, out, base_reader)
        else:
            out[:] = kept
        checked = checked and not memory.is_unchecked()
        if checked and blake3(out).digest(layout.CHECK) != one.blocks[index].check:
            raise self._damaged(one, index, "its values have another digest.")
        if kept is None and one.base is None:
            memory.keep(one.key, begin, out)

    def _unpack(
        self, one: PackedObject, index: int, out: memoryview, base_reader: BaseReader | None
    ) -> None:
        block = one.blocks[index]
        codec = self._codec(one) if block.mode == "codec" else None
        different = codec is not None and codec.needs_base
        if block.mode == "same" or different:
            self._read_base(one, index, out, base_reader)
        try:
            if block.mode == "raw":
                self._exactly(block.offset, out)
            elif codec is not None:
                packed = memory.scratch("packed", block.stored)
                self._exactly(block.offset, packed)
                codec.decode(packed, out, one.item, out if different else None)
        except CorruptError as error:
            raise self._damaged(one, index, str(error)) from None

    def _read_base(
        self, one: PackedObject, index: int, out: memoryview, base_reader: BaseReader | None
    ) -> None:
        base, begin = one.base, one.extent(index)[0]
        if base_reader is None or base is None:
            raise MismatchError(
                f"{self.path}: object {one.key} is stored as the difference to {base}, which is needed to "
                "read it; open it through the library that has both."
            )
        kept = memory.kept_block(base, begin, len(out))
        if kept is None:
            base_reader(base, begin, out)
        else:
            out[:] = kept

    def _codec(self, one: PackedObject) -> Codec:
        try:
            return CODECS[one.codec]
        except NotFoundError:
            raise UnsupportedError(
                f"{self.path}: object {one.key} needs the codec {one.codec!r}, which this memcard does not "
                "have; update memcard, or install the package that adds it."
            ) from None

    def _damaged(self, one: PackedObject, index: int, why: str) -> IntegrityError:
        return IntegrityError(
            f"{self.path}: block {index} of {len(one.blocks)} of object {one.key} is damaged: {why} Nothing "
            "of it is handed on; `memcard repair` looks for another copy."
        )

    def _exactly(self, at: int, out: memoryview) -> None:
        done = 0
        with self._handle() as fd:
            while done < len(out):
                with disk_errors(self.path):
                    got = _read_at(fd, out[done:], at + done)
                if not got:
                    raise CorruptError(f"the file ends at byte {at + done}.")
                done += got

    @contextmanager
    def _handle(self) -> Iterator[int]:
        """Lend the open file. A large library has more packs than a process may have files open."""
        with _HANDLES:
            if self._users < 0:
                raise UsageError(f"{self.path}: this pack was closed.")
            if self._fd < 0:
                with disk_errors(self.path):
                    self._fd = os.open(self.path, _FLAGS)
            self._users += 1
            _IDLE.pop(self, None)
        try:
            yield self._fd
        finally:
            with _HANDLES:
                self._users -= 1
                if self._users == 0:
                    _IDLE[self] = None
                while len(_IDLE) > _MOST_OPEN:
                    oldest, _ = _IDLE.popitem(last=False)
                    os.close(oldest._fd)
                    oldest._fd = -1

    def _stretch(self, at: int, size: int) -> Iterator[memoryview]:
        end = at + size
        while at < end:
            part = memoryview(bytearray(min(_PIECE, end - at)))
            self._exactly(at, part)
            yield part
            at += len(part)

    def _bytes(self, at: int, size: int) -> memoryview:
        part = memoryview(bytearray(size))
        self._exactly(at, part)
        return part

    def _open(self) -> Mapping[str, PackedObject]:
        size = os.fstat(self._fd).st_size
        if size < layout.HEADER.size:
            raise CorruptError(f"{self.path}: {size} bytes are too few for a pack.")
        magic, version, zero = layout.HEADER.unpack(self._bytes(0, layout.HEADER.size))
        if magic == layout.MAGIC and version > layout.VERSION:
            raise UnsupportedError(
                f"{self.path}: this pack has version {version}; this memcard knows {layout.VERSION}. "
                "Update memcard to read it."
            )
        if magic != layout.MAGIC or version != layout.VERSION or zero:
            raise CorruptError(f"{self.path}: this is no pack, or its first bytes are damaged.")
        try:
            return self._footer(size)
        except CorruptError as error:
            self.faults = (f"{self.path}: the list of objects is lost: {error}",)
            return self._rebuild(size)

    def _footer(self, size: int) -> Mapping[str, PackedObject]:
        at = size - layout.TRAILER.size
        if at < layout.HEADER.size:
            raise CorruptError("the file is cut off.")
        last = self._bytes(at, layout.TRAILER.size)
        place, length, count, version, *_, check, magic = layout.TRAILER.unpack(last)
        if magic != layout.MAGIC or version != layout.VERSION:
            raise CorruptError("the file does not end as a pack does.")
        if length > layout.FOOTER_MOST or place + length != at or place < layout.HEADER.size:
            raise CorruptError("the trailer points outside of the file.")
        raw = self._bytes(place, length)
        if blake3(bytes(last[: struct.calcsize("<QQIIII")]) + bytes(raw)).digest() != check:
            raise CorruptError("the footer has another digest than the trailer says.")
        return layout.parse_footer(raw, count, place)

    def _rebuild(self, size: int) -> Mapping[str, PackedObject]:
        """Find the objects by their heads; what is cut off or damaged is left out."""
        found: dict[str, PackedObject] = {}
        at = layout.HEADER.size
        while at < size:
            one = self._object_at(at, size)
            if one is None:
                at = self._next_head(at + 1, size)
            else:
                found.setdefault(one.key, one)
                at = one.blocks.end
        return found

    def _object_at(self, at: int, size: int) -> PackedObject | None:
        part = self._bytes(at, min(layout.HEAD_MOST, size - at))
        try:
            one = layout.parse_head(part, at)
            place, table = one.blocks.start, bytearray()
            for _ in range(layout.block_count(one.size, one.item)):
                if size - place < layout.FRAME:
                    return None
                line = bytes(self._bytes(place, layout.FRAME))
                table += line
                place += layout.FRAME + layout.stored_in(line)
            one = replace(one, blocks=layout.Blocks(bytes(table), one.blocks.start))
            layout.check_table(one, size)
        except CorruptError:
            return None
        return one

    def _next_head(self, at: int, size: int) -> int:
        overlap = len(layout.OBJECT) - 1
        while at < size:
            part = bytes(self._bytes(at, min(_PIECE, size - at)))
            hit = part.find(layout.OBJECT)
            if hit >= 0:
                return at + hit
            at += max(len(part) - overlap, 1)
        return size


def _read_at(fd: int, out: memoryview, at: int) -> int:
    """Read from a place in a file; return how many bytes came."""
    if hasattr(os, "preadv"):
        return os.preadv(fd, [out], at)
    with _WINDOWS:
        os.lseek(fd, at, os.SEEK_SET)
        part = os.read(fd, min(len(out), _PIECE))
    out[: len(part)] = part
    return len(part)


def reader_of(
    find: Callable[[str], Pack | None], raw: Callable[[str, int, memoryview], bool]
) -> BaseReader:
    """Return a reader of objects wherever they lie, which follows differences to their bases.

    Args:
        find: gives the pack that holds a key, or None.
        raw: fills memory from a plain file or a recipe; False if it does not have the key.

    Raises:
        NotFoundError: (when reading) nobody has the key.
        CorruptError: (when reading) a base is as deep as what is built on it, so it might have no end.
    """

    def read(
        key: str,
        offset: int,
        out: memoryview,
        above: int = layout.DEPTH_MOST + 1,
        *,
        checked: bool = True,
        bases: bool = False,
    ) -> None:
        if raw(key, offset, out):
            return
        pack = find(key)
        if pack is None:
            raise NotFoundError(
                f"object {key} is neither in a pack nor in a plain file of the library; "
                "`memcard doctor` tells what needs it, `memcard repair` looks for a copy."
            )
        depth = pack.objects[key].depth
        if depth >= above:
            raise CorruptError(
                f"{pack.path}: object {key} of depth {depth} serves as base of one of depth {above}."
            )

        def base(key: str, at: int, to: memoryview) -> None:
            read(key, at, to, depth, checked=bases, bases=bases)

        try:
            pack.read(key, offset, out, base, checked=checked)
        except IntegrityError:
            if bases or not checked or not depth:
                raise
            # The check of the values tells that they are wrong; those of the bases tell whose fault it is.
            read(key, offset, out, above, bases=True)

    return read
