"""A sharded save of ``torch.distributed.checkpoint`` in memcard's storage: a folder of pieces and an index.

Tensors are put together from the chunks that the processes wrote, each compared with its digest before it is used.
Values that are no tensors (steps, rates) stay behind. Specification: ``docs/spec/dcp.md``.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, NoReturn

from blake3 import blake3

from memcard.core.checkpoint import Checkpoint, Extent
from memcard.core.limits import DEFAULT
from memcard.core.tensors import DTYPES, Spec, Specs
from memcard.errors import CorruptError, IntegrityError, NotFoundError, UnsupportedError
from memcard.formats._choose import open_file
from memcard.formats._dcp_index import INDEX, NAME, Chunk, Entry, read_index
from memcard.formats._source import check_range

_OPEN = 64  # files whose handles stay open
_MOST_VALUES = 2_000_000  # of JSON in the index; a chunk takes about ten
_AT_ONCE = 8 << 20  # bytes hashed in one go
_PAIRS = {"C128": "F64", "C32": "F16"}  # stored as two numbers each


class ShardedSave:
    """An open folder; the index and the headers of all files were read, no tensor.

    Attributes:
        parts: the files the tensors are in.
        other: names of the values that are no tensors.
    """

    format = "dcp_memcard"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._index_state = _state(path / INDEX)
        try:
            self._index = read_index(path, most_values=_MOST_VALUES)
        except IntegrityError as error:
            raise CorruptError(str(error)) from None  # what readers of formats raise
        self._opened: OrderedDict[int, Checkpoint] = OrderedDict()
        self._lock = Lock()
        self._right: set[tuple[int, str]] = set()
        self._last: tuple[str, memoryview] = "", memoryview(b"")
        self._states: list[tuple[int, ...]] = []
        self._check()
        self.specs: Specs = {
            name: Spec(DTYPES[entry.dtype], entry.shape)
            for name, entry in self._index.tensors.items()
        }
        self.metadata: Mapping[str, str] = {"memcard.card": '{"kind":"training"}'}
        self.parts = tuple(path / file.name for file in self._index.files)
        self.other: Sequence[str] = tuple(self._index.values)
        count = len(self.other)
        plain = f"Besides tensors it holds {count} plain value{'s' if count > 1 else ''}."
        self.notes: Sequence[str] = (plain,) if count else ()

    def read(self, name: str) -> memoryview:
        """Return one tensor's bytes, read-only; chunks are put together in fresh memory."""
        entry = self._entry(name)
        if len(entry.chunks) == 1:
            return self._chunk(entry.chunks[0])
        whole = bytearray(self.specs[name].nbytes)
        self._assemble(entry, memoryview(whole))
        return memoryview(whole).toreadonly()

    def readinto(self, name: str, into: memoryview, offset: int = 0) -> None:
        """Fill ``into`` with the bytes of one tensor from ``offset`` on."""
        entry, size = self._entry(name), self.specs[name].nbytes
        check_range(self._path, name, size, offset, into.nbytes)
        into = into.cast("B") if into.nbytes else memoryview(b"")
        if len(into) == size:
            self._assemble(entry, into)
        elif len(entry.chunks) == 1 or all(_is_rows(entry, chunk) for chunk in entry.chunks):
            self._read_rows(entry, into, offset)
        else:
            into[:] = self._kept(name)[offset : offset + len(into)]

    def extent(self, name: str) -> Extent | None:
        """Nowhere: bytes are compared with their digest before anyone has them."""
        self._entry(name)
        return None

    def check_unchanged(self) -> None:
        """Raise IntegrityError if a file was written to since it was opened."""
        states = [(INDEX, self._index_state)]
        states += zip((file.name for file in self._index.files), self._states, strict=True)
        for name, state in states:
            if _state(self._path / name) != state:
                raise IntegrityError(
                    f"{self._path / name}: changed while it was read. Try again when nothing writes to it."
                )

    def close(self) -> None:
        """Give the handles back."""
        with self._lock:
            for opened in self._opened.values():
                opened.close()
            self._opened.clear()
            self._last = "", memoryview(b"")

    def _entry(self, name: str) -> Entry:
        try:
            return self._index.tensors[name]
        except KeyError:
            raise NotFoundError(f"{self._path}: has no tensor {name!r}.") from None

    def _check(self) -> None:
        """Open all files once, and compare their headers with the index; raises CorruptError with all faults."""
        if len(self._index.tensors) > DEFAULT.tensors:
            raise UnsupportedError(
                f"{self._path}: holds {len(self._index.tensors)} tensors; the limit is {DEFAULT.tensors}."
            )
        found = []
        for number, file in enumerate(self._index.files):
            self._states.append(_state(self._path / file.name))
            try:
                found.append(self._file(number).specs)
            except NotFoundError:
                raise CorruptError(
                    f"{self._path / file.name}: is missing, though the index names it. Put it back, or use another save."
                ) from None
        faults = [
            f"{self._path / self._index.files[chunk.file].name}: {chunk.name!r} is not {spec}, as the index has it"
            for entry in self._index.tensors.values()
            for chunk in entry.chunks
            if found[chunk.file].get(chunk.name) != (spec := _stored_spec(entry, chunk))
        ]
        if faults:
            more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
            raise CorruptError(f"{'; '.join(faults[:3])}{more}. Use another save.", faults=faults)

    def _file(self, number: int) -> Checkpoint:
        with self._lock:
            if (opened := self._opened.get(number)) is not None:
                self._opened.move_to_end(number)
                return opened
            opened = open_file(self._path / self._index.files[number].name, among=("safetensors",))
            self._opened[number] = opened
            if len(self._opened) > _OPEN:
                self._opened.popitem(last=False)
            return opened

    def _chunk(self, chunk: Chunk) -> memoryview:
        """Return the bytes of a chunk; the first time they are compared with their digest."""
        opened, place = self._file(chunk.file), (chunk.file, chunk.name)
        if not opened.specs[chunk.name].nbytes:
            return memoryview(b"")
        raw = opened.read(chunk.name).cast("B")
        if place not in self._right:
            told = self._index.files[chunk.file]
            hasher = blake3()
            for at in range(0, len(raw), _AT_ONCE):
                hasher.update(raw[at : at + _AT_ONCE])
            if hasher.hexdigest() != told.digests[chunk.name]:
                raise CorruptError(
                    f"{self._path / told.name}: {chunk.name!r}: the bytes do not match their digest; the disk or a "
                    "program changed them. Use another save."
                )
            self._right.add(place)
        return raw

    def _assemble(self, entry: Entry, into: memoryview) -> None:
        import numpy as np

        width = DTYPES[entry.dtype].block_bytes
        whole: Any = np.frombuffer(into, np.uint8).reshape(*entry.shape, width)
        for chunk in entry.chunks:
            part = np.frombuffer(self._chunk(chunk), np.uint8).reshape(*chunk.sizes, width)
            ranges = zip(chunk.offsets, chunk.sizes, strict=True)
            whole[tuple(slice(at, at + size) for at, size in ranges)] = part

    def _read_rows(self, entry: Entry, into: memoryview, offset: int) -> None:
        """Copy from chunks that lie in one piece in the whole."""
        row = math.prod(entry.shape[1:]) * DTYPES[entry.dtype].block_bytes
        end = offset + len(into)
        for chunk in entry.chunks:
            raw = self._chunk(chunk)
            begin = chunk.offsets[0] * row if chunk.offsets else 0
            first, last = max(offset, begin), min(end, begin + len(raw))
            if first < last:
                into[first - offset : last - offset] = raw[first - begin : last - begin]

    def _kept(self, name: str) -> memoryview:
        """Return a whole tensor; the last one is kept, as one is asked for piece by piece."""
        with self._lock:
            kept, raw = self._last
        if kept != name:
            raw = self.read(name)
            with self._lock:
                self._last = name, raw
        return raw


def _is_rows(entry: Entry, chunk: Chunk) -> bool:
    return chunk.sizes[1:] == entry.shape[1:]


def _stored_spec(entry: Entry, chunk: Chunk) -> Spec:
    if entry.dtype in _PAIRS:
        return Spec(DTYPES[_PAIRS[entry.dtype]], (*chunk.sizes, 2))
    return Spec(DTYPES[entry.dtype], chunk.sizes)


def _state(path: Path) -> tuple[int, ...]:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return ()
    return stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_dev


class _Format:
    title = "a sharded save"
    suffixes = ()
    source = "docs/spec/dcp.md; https://docs.pytorch.org/docs/2.13/distributed.checkpoint.html"

    def sniff(self, head: bytes) -> bool:
        """Never: this format is a folder."""
        del head
        return False

    def sniff_folder(self, names: frozenset[str]) -> bool:
        """An index, and a file of a process."""
        return INDEX in names and any(NAME.fullmatch(name) for name in names)

    def open(self, path: Path, *, salvage: bool = False) -> ShardedSave:
        """Read the index and the headers of all files."""
        del salvage  # nothing in it can ask to run code
        return ShardedSave(path)

    def create(self, path: Path) -> NoReturn:
        """Refuse: only a sharded training writes it."""
        raise UnsupportedError(
            f"{path}: only a training writes sharded saves. End the name in .safetensors."
        )


PLUGIN = _Format()
