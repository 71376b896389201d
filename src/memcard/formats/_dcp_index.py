"""The index of a save of ``torch.distributed.checkpoint`` in memcard's own storage: JSON, written last.

It says which chunk of which tensor lies in which file, and has the BLAKE3 of each. A folder without an index is
no save. Specification: ``docs/spec/dcp.md``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

from blake3 import blake3

from memcard.core.tensors import DTYPES
from memcard.errors import CorruptError, IntegrityError, NotFoundError, UnsupportedError

VERSION: Final = 1
FORMAT: Final = "memcard.dcp"
INDEX: Final = "index.json"
NAME: Final = re.compile(r"rank-\d{5,9}\.safetensors")
_FOREIGN: Final = ".metadata"  # the index of torch's own storage, a pickle
_START: Final = b'{"check":"'  # the first key, so that its value has a fixed place
_DIGITS: Final = 64
_ZEROS: Final = b"0" * _DIGITS
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_MOST_BYTES: Final = 1 << 30
_SHOWN: Final = 3

KeyPath: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A box of a tensor, and where it lies.

    Attributes:
        file: number of the file in ``Index.files``.
        name: of the tensor in that file.
        offsets: where the box begins in the tensor; one number an axis.
        sizes: of the box; as many.
    """

    file: int
    name: str
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """A whole tensor.

    Attributes:
        dtype: name in ``memcard.core.tensors.DTYPES``.
        shape: of all chunks together.
        chunks: boxes that fill it.
    """

    dtype: str
    shape: tuple[int, ...]
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True, slots=True)
class Value:
    """Something that is no tensor.

    Attributes:
        file: number of the file its tensors are in; None if it has none.
        tree: JSON as in ``docs/spec/training.md``, Values.
    """

    file: int | None
    tree: Any


@dataclass(frozen=True, slots=True)
class RankFile:
    """What one process wrote.

    Attributes:
        name: of the file, beside the index.
        size: in bytes.
        digests: name of each tensor in it to its BLAKE3 in hex.
    """

    name: str
    size: int
    digests: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Index:
    """What is in a save.

    Attributes:
        files: one a process that had tensors to write.
        tensors: by their full name in the state dict, in its order.
        values: everything else, by name.
        paths: keys that lead to a name in the nested state dict; None if it was not flattened.
        world: how many processes saved.
        time: seconds since 1970 when the save was finished.
        made_by: program or library to version.
    """

    files: tuple[RankFile, ...]
    tensors: Mapping[str, Entry]
    values: Mapping[str, Value]
    paths: Mapping[str, KeyPath] | None
    world: int
    time: float = 0.0
    made_by: Mapping[str, str] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Return the file: ASCII JSON that begins with a check of itself."""
        whole = {
            "check": _ZEROS.decode(),
            "files": [
                {"digests": dict(f.digests), "name": f.name, "size": f.size} for f in self.files
            ],
            "format": FORMAT,
            "made_by": dict(self.made_by),
            "paths": None if self.paths is None else {n: list(p) for n, p in self.paths.items()},
            "tensors": {
                name: {
                    "chunks": [[c.file, c.name, list(c.offsets), list(c.sizes)] for c in e.chunks],
                    "dtype": e.dtype,
                    "shape": list(e.shape),
                }
                for name, e in self.tensors.items()
            },
            "time": self.time,
            "values": {name: [v.file, v.tree] for name, v in self.values.items()},
            "version": VERSION,
            "world": self.world,
        }
        text = json.dumps(whole, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
        raw = text.encode("ascii") + b"\n"
        return _with_check(raw, blake3(raw).hexdigest().encode())


def read_index(folder: Path, *, most_values: int | None = None) -> Index:
    """Read the index of a save.

    Args:
        folder: of the save.
        most_values: refuse an index of more JSON values, where it may be hostile; None for no limit.

    Raises:
        NotFoundError: there is no such folder, or no finished save in it.
        IntegrityError: the index does not match its own check.
        UnsupportedError: it is of a newer version, or of another program.
        CorruptError: it breaks the rules of the format; all faults are named.
    """
    path = folder / INDEX
    raw = _raw(folder, path)
    values = sum(raw.count(mark) for mark in (b",", b"{", b"["))
    if most_values is not None and values > most_values:
        raise UnsupportedError(
            f"{path}: an index of {values} values; the limit is {most_values}. Load it with MemcardReader."
        )
    found = _json(raw, path)
    if found.get("format") != FORMAT:
        raise UnsupportedError(
            f"{path}: was not written by memcard's storage for torch.distributed.checkpoint. "
            "Name the folder of such a save."
        )
    if blake3(_with_check(raw, _ZEROS)).hexdigest() != found.get("check"):
        raise IntegrityError(
            f"{path}: does not match its own check; the disk or a program changed it. Use another save."
        )
    if found.get("version") != VERSION:
        raise UnsupportedError(
            f"{path}: is of version {str(found.get('version'))[:20]}; this memcard reads version {VERSION}. "
            "Use the version that wrote it, or a newer one."
        )
    return _Parser(path).index(found)


def _raw(folder: Path, path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise UnsupportedError(
                f"{path}: an index of {size} bytes; the limit is {_MOST_BYTES}. Save from fewer processes."
            )
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        pass
    if (folder / _FOREIGN).exists():
        raise UnsupportedError(
            f"{folder}: is a save of torch's own storage. Read it with "
            "torch.distributed.checkpoint.FileSystemReader if you trust it; its index is a pickle."
        )
    raise NotFoundError(
        f"{folder}: holds no finished save; {INDEX} is missing, which is written last. Use an older save."
    )


def _json(raw: bytes, path: Path) -> dict[str, Any]:
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"{path}: is not JSON ({str(error)[:80]}). Use another save.") from None
    if not isinstance(found, dict):
        raise CorruptError(f"{path}: is JSON, but no object. Use another save.")
    return found


def _with_check(raw: bytes, check: bytes) -> bytes:
    return _START + check + raw[len(_START) + _DIGITS :]


class _Parser:
    """Makes an ``Index`` of JSON that someone else may have written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._faults: list[str] = []
        self._files: tuple[RankFile, ...] = ()

    def index(self, found: Mapping[str, Any]) -> Index:
        """Return the index; raises CorruptError with all faults."""
        try:
            self._files = tuple(self._file(item) for item in found["files"])
            tensors = {name: self._entry(name, item) for name, item in found["tensors"].items()}
            values = {name: self._value(name, item) for name, item in found["values"].items()}
            listed = found["paths"]
            paths = None if listed is None else {n: self._keys(n, p) for n, p in listed.items()}
            made_by = {str(name): str(version) for name, version in found["made_by"].items()}
            index = Index(
                self._files,
                tensors,
                values,
                paths,
                int(found["world"]),
                float(found["time"]),
                made_by,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            self._faults.append(f"lacks something or has it in another shape ({error!r})")
            self._raise()
            raise AssertionError from error  # not reached: there is a fault
        self._raise()
        return index

    def _raise(self) -> None:
        if self._faults:
            more = len(self._faults) - _SHOWN
            raise CorruptError(
                f"{self._path}: {'; '.join(self._faults[:_SHOWN])}"
                f"{f' and {more} more faults' if more > 0 else ''}. Use another save.",
                faults=self._faults,
            )

    def _file(self, item: Mapping[str, Any]) -> RankFile:
        name, size, digests = item["name"], item["size"], item["digests"]
        if not (type(name) is str and NAME.fullmatch(name)):
            self._faults.append(f"{str(name)[:80]!r} is no name of a file of a save")
        if type(size) is not int or size < 0:
            self._faults.append(f"{str(name)[:80]!r} has no size")
        if not all(type(d) is str and _DIGEST.fullmatch(d) for d in digests.values()):
            self._faults.append(f"{str(name)[:80]!r} has digests that are none")
        return RankFile(name, size, digests)

    def _entry(self, name: str, item: Mapping[str, Any]) -> Entry:
        shape = self._sizes(name, item["shape"])
        dtype = item["dtype"]
        if not (type(dtype) is str and dtype in DTYPES and DTYPES[dtype].block == 1):
            self._faults.append(f"{name[:200]!r} has the unknown dtype {str(dtype)[:40]!r}")
        chunks = tuple(self._chunk(name, shape, chunk) for chunk in item["chunks"])
        if sum(math.prod(c.sizes) for c in chunks) != math.prod(shape):
            self._faults.append(f"the chunks of {name[:200]!r} do not fill it")
        return Entry(dtype, shape, chunks)

    def _chunk(self, name: str, shape: tuple[int, ...], item: list[Any]) -> Chunk:
        file, stored, begins, extents = item
        offsets, sizes = self._sizes(name, begins), self._sizes(name, extents)
        if not len(offsets) == len(sizes) == len(shape) or any(
            at + size > whole for at, size, whole in zip(offsets, sizes, shape, strict=False)
        ):
            self._faults.append(f"a chunk of {name[:200]!r} is not inside it")
        if not self._has(file, stored):
            self._faults.append(f"a chunk of {name[:200]!r} lies in no file")
        return Chunk(file, stored, offsets, sizes)

    def _value(self, name: str, item: list[Any]) -> Value:
        file, tree = item
        if file is not None and not self._has(file):
            self._faults.append(f"the value {name[:200]!r} lies in no file")
        return Value(file, tree)

    def _keys(self, name: str, keys: list[Any]) -> KeyPath:
        if type(keys) is not list or not keys or not all(type(key) in (str, int) for key in keys):
            self._faults.append(f"the path of {name[:200]!r} is none")
            return (name,)
        return tuple(keys)

    def _has(self, file: Any, name: str | None = None) -> bool:
        if type(file) is not int or not 0 <= file < len(self._files):
            return False
        return name is None or name in self._files[file].digests

    def _sizes(self, name: str, found: Any) -> tuple[int, ...]:
        if type(found) is list and all(type(n) is int and n >= 0 for n in found):
            return tuple(found)
        self._faults.append(f"{name[:200]!r} has sizes that are none")
        return ()
