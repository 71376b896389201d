"""A delta file: what stands in it, and the checkpoint it stands for once its base is at hand.

Specified in ``docs/spec/delta.md``. Values are kept in blocks of 4 MiB, each with its own digest, so that any
part can be read by itself and no damaged byte is ever handed on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from threading import local
from typing import Any, Final, TypeAlias

from blake3 import blake3

from memcard.codecs import CODECS
from memcard.core.checkpoint import Checkpoint, Extent
from memcard.core.tensors import DTYPES, QUANTIZED, DType, Spec, Specs
from memcard.errors import CorruptError, IntegrityError, NotFoundError, UnsupportedError

BLOCK: Final = 4 << 20  # bytes of values; a multiple of every item
VERSION: Final = 1
MODE: Final = "lossless"
INDEX, HEADER = "memcard.delta.index", "memcard.delta.header"
KEY: Final = "memcard.delta."
SAME: Final = "same"  # the codec of a tensor that is the base's, bit for bit
_STATED: Final = ("base_sha256", "base_name", "result_sha256", "result_name", "result_size")
_DIGEST: Final = 32  # hex digits of a block's BLAKE3 that are kept: 128 bits
_ITEMS: Final = (1, 2, 4, 8)
_MOST: Final = 256 << 20  # bytes of an index: a million tensors
Index: TypeAlias = "tuple[list[Entry], dict[str, str]]"  # tensors and metadata of the result
_DTYPES: Final[Mapping[str, DType]] = {**DTYPES, **QUANTIZED}


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of the result.

    Attributes:
        name: of the tensor; also of its bytes in the delta, if it has any.
        spec: dtype and shape.
        codec: name of the codec, or ``same``.
        digest: BLAKE3 of its values, 64 hex digits.
        base_digest: that of the base's namesake; "" if the base is not needed.
        sizes: bytes of each block in the delta; 0: the block is the base's.
        checks: BLAKE3 of each block of values, 32 hex digits.
    """

    name: str
    spec: Spec
    codec: str
    digest: str
    base_digest: str
    sizes: tuple[int, ...]
    checks: tuple[str, ...]

    def to_list(self) -> list[Any]:
        """Return what is written."""
        spec = [self.spec.dtype.name, list(self.spec.shape)]
        blocks = [list(pair) for pair in zip(self.sizes, self.checks, strict=True)]
        return [self.name, *spec, self.codec, self.digest, self.base_digest, blocks]


def item_of(spec: Spec) -> int:
    """Return how many bytes a codec takes for one value."""
    size = spec.dtype.block_bytes if spec.dtype.block == 1 else 1
    return size if size in _ITEMS else 8 if size == 2 * _ITEMS[-1] else 1


def check_of(part: memoryview | bytes) -> str:
    """Return the digest kept of a block."""
    return blake3(part).hexdigest()[:_DIGEST]


def write_index(entries: Sequence[Entry], metadata: Mapping[str, str]) -> bytes:
    """Return the index as it is stored."""
    import zstandard

    document = {"metadata": dict(metadata), "tensors": [entry.to_list() for entry in entries]}
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
    return zstandard.ZstdCompressor(level=9).compress(text.encode())


def read_packed(delta: Checkpoint, name: str) -> bytes:
    """Return one of the two compressed parts of a delta that are no tensors.

    Raises:
        CorruptError: it is missing, damaged or far too large.
    """
    import zstandard

    if name not in delta.specs:
        raise CorruptError(f"delta: has no {name!r}. Get the file again.")
    try:
        part = delta.read(name)
        if not 0 <= zstandard.get_frame_parameters(part).content_size <= _MOST:
            raise CorruptError(f"delta: {name!r} claims more than {_MOST} bytes.")
        return zstandard.ZstdDecompressor().decompress(part)
    except zstandard.ZstdError as error:
        raise CorruptError(f"delta: {name!r}: {error}. Get the file again.") from None


def read_index(delta: Checkpoint) -> Index:
    """Return the tensors and the metadata of the result.

    Raises:
        CorruptError: the index breaks the rules of docs/spec/delta.md.
        UnsupportedError: written by a later version, or not a delta of this kind.
    """
    mode, version = (delta.metadata.get(f"{KEY}{key}") for key in ("mode", "version"))
    if mode != MODE:
        said = "it is no delta" if mode is None else f"a delta of mode {mode!r}"
        raise UnsupportedError(f"delta: {said}; memcard delta apply takes those of mode {MODE!r}.")
    if version != str(VERSION):
        raise UnsupportedError(f"delta: version {version}, known is {VERSION}. Update memcard.")
    if lacking := [key for key in _STATED if f"{KEY}{key}" not in delta.metadata]:
        raise CorruptError(f"delta: does not state its {lacking[0]}. Get the file again.")
    try:
        document = json.loads(read_packed(delta, INDEX))
        metadata = {str(k): str(v) for k, v in document["metadata"].items()}
        entries = [_entry(found) for found in document["tensors"]]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CorruptError(f"delta: its index is damaged ({error}). Get it again.") from None
    faults = [fault for entry in entries for fault in _faults(entry, delta)]
    if faults:
        shown = "; ".join(faults[:3]) + (f" and {len(faults) - 3} more" if len(faults) > 3 else "")
        raise CorruptError(f"delta: {shown}. Get the file again.", faults=faults)
    return entries, metadata


def _entry(found: Any) -> Entry:
    name, dtype, shape, codec, digest, base_digest, blocks = found
    if not all(isinstance(text, str) for text in (name, codec, digest, base_digest)):
        raise ValueError("a text is none")
    if not all(type(n) is int and 0 <= n < 1 << 48 for n in shape):
        raise ValueError(f"the shape of {name!r}")
    sizes = tuple(size for size, _ in blocks)
    if not all(type(size) is int and size >= 0 for size in sizes):
        raise ValueError(f"the blocks of {name!r}")
    spec = Spec(_DTYPES[dtype], tuple(shape))
    checks = tuple(str(check) for _, check in blocks)
    return Entry(name, spec, codec, digest, base_digest, sizes, checks)


def _faults(entry: Entry, delta: Checkpoint) -> list[str]:
    faults, stored = [], delta.specs.get(entry.name)
    has = 0 if stored is None or entry.codec == SAME else stored.nbytes
    if entry.codec != SAME and entry.codec not in CODECS:
        faults.append(f"{entry.name!r}: unknown codec {entry.codec!r}")
    if len(entry.sizes) != -(-entry.spec.nbytes // BLOCK):
        faults.append(f"{entry.name!r}: {len(entry.sizes)} blocks for {entry.spec.nbytes} bytes")
    if sum(entry.sizes) != has:
        faults.append(f"{entry.name!r}: {has} bytes, its blocks say {sum(entry.sizes)}")
    if 0 in entry.sizes and not entry.base_digest:
        faults.append(f"{entry.name!r}: is of the base, and the base's digest is missing")
    return faults


class DeltaCheckpoint:
    """The result of a delta on its base; every block is checked as it is read. From any thread.

    Attributes:
        parts: the files it is read from, for messages and to keep them from being overwritten.
    """

    format = "delta"
    notes: Sequence[str] = ()

    def __init__(
        self,
        base: Checkpoint,
        delta: Checkpoint,
        *,
        parts: Sequence[Path] = (),
        index: Index | None = None,
    ) -> None:
        self._base, self._delta = base, delta
        self.parts = tuple(parts)
        self._local = local()
        entries, metadata = read_index(delta) if index is None else index
        self.entries: Mapping[str, Entry] = {entry.name: entry for entry in entries}
        self.specs: Specs = {entry.name: entry.spec for entry in entries}
        self.metadata: Mapping[str, str] = metadata
        self._starts = {entry.name: (0, *accumulate(entry.sizes)) for entry in entries}

    def read(self, name: str) -> memoryview:
        """Return one tensor, read-only."""
        whole = memoryview(bytearray(self._entry(name).spec.nbytes))
        self.readinto(name, whole)
        return whole.toreadonly()

    def readinto(self, name: str, into: memoryview, offset: int = 0) -> None:
        """Fill ``into`` with the bytes of one tensor from ``offset`` on."""
        entry, at = self._entry(name), 0
        while at < len(into):
            number, inside = divmod(offset + at, BLOCK)
            block = self._block(entry, number)
            part = block[inside : inside + len(into) - at]
            into[at : at + len(part)] = part
            at += len(part)

    def extent(self, name: str) -> Extent | None:
        """Return None: a kernel that copies bytes would not compare them with their digest."""
        self._entry(name)
        return None

    def check_unchanged(self) -> None:
        """Raise IntegrityError if a file was written to since it was opened, where that shows."""
        for checkpoint in (self._base, self._delta):
            check = getattr(checkpoint, "check_unchanged", None)
            if check is not None:
                check()

    def close(self) -> None:
        """Close both files."""
        self._base.close()
        self._delta.close()

    def _entry(self, name: str) -> Entry:
        try:
            return self.entries[name]
        except KeyError:
            raise NotFoundError(f"the delta makes no tensor {name!r}.") from None

    def _block(self, entry: Entry, number: int) -> memoryview:
        """Return a block; the last one of each thread is kept, as many read in smaller steps."""
        last: tuple[str, int, memoryview] | None = getattr(self._local, "last", None)
        if last is None or last[:2] != (entry.name, number):
            last = entry.name, number, self._unpacked(entry, number)
            self._local.last = last
        return last[2]

    def _unpacked(self, entry: Entry, number: int) -> memoryview:
        start = number * BLOCK
        size = min(BLOCK, entry.spec.nbytes - start)
        packed_size = entry.sizes[number]
        base = None
        if entry.base_digest:
            base = memoryview(bytearray(size))
            self._base.readinto(entry.name, base, start)
        if packed_size == 0 and base is not None:
            out = base
        else:
            packed = memoryview(bytearray(packed_size))
            self._delta.readinto(entry.name, packed, self._starts[entry.name][number])
            out = memoryview(bytearray(size))
            codec = CODECS[entry.codec]
            try:
                codec.decode(packed, out, item_of(entry.spec), base if codec.needs_base else None)
            except CorruptError as error:
                raise self._damaged(entry, number, f" ({error})") from None
        if check_of(out) != entry.checks[number]:
            raise self._damaged(entry, number)
        return out

    def _damaged(self, entry: Entry, number: int, why: str = "") -> IntegrityError:
        where = " and ".join(f"{path}" for path in reversed(self.parts))
        return IntegrityError(
            f"{where}{': ' if where else ''}{entry.name!r}: block {number} of the delta does not give what it was made of{why}. "
            "Either file is damaged; get the delta again, and memcard inspect --digests the base."
        )
