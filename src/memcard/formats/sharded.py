"""A checkpoint in several files with an index: ``*.safetensors.index.json``, ``*.bin.index.json``.

The shards are files of any format that can be read; which tensors they hold, the index decides. It can
name only files beside itself.

Source: transformers 5 ``load_sharded_checkpoint``, diffusers 0.42 ``model_loading_utils``.
"""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from memcard.core.checkpoint import Checkpoint, Extent
from memcard.core.limits import DEFAULT
from memcard.core.tensors import Spec, Specs
from memcard.errors import (
    CorruptError,
    FormatError,
    IntegrityError,
    NotFoundError,
    UnsafeError,
    UnsupportedError,
)
from memcard.formats._choose import SINGLE, open_file
from memcard.formats._safetensors_header import why_not_json
from memcard.formats._shards import PYTORCH, TOTAL, ShardedSink
from memcard.formats._source import is_plain_name, suffix_note

_OPEN = 16  # shards whose handles stay open; a model may have 200
_MOST_SHARDS = 10_000
_SHOWN = 3
_INDEX_BYTES = 32 << 20  # of 100,000 tensors: 12 MB


class Sharded:
    """An open index; the headers of all shards were read, no tensor.

    Attributes:
        parts: the files the tensors are in.
        training_state: names of tensors that belong to no model; as the shards tell.
        other: content of the shards that is not tensors.
    """

    format = "sharded"

    def __init__(self, path: Path, *, salvage: bool = False) -> None:
        self._path, self._salvage = path, salvage
        self._index_state = _state(path)
        index = _Index(path)
        self._where: Mapping[str, str] = index.weight_map
        self._opened: OrderedDict[str, Checkpoint] = OrderedDict()
        self._states: dict[str, tuple[int, ...]] = {}
        self._lock = Lock()
        self._metadata: dict[str, str] = {}
        self._notes: dict[str, None] = {}
        self._training: list[str] = []
        self._other: list[str] = []
        found = self._open_all(index.shards)
        self.specs: Specs = self._pick(found)
        self.metadata: Mapping[str, str] = self._metadata | index.metadata
        self.parts = tuple(path.parent / shard for shard in index.shards)
        self.training_state: Sequence[str] = tuple(self._training)
        self.other: Sequence[str] = tuple(self._other)
        self.notes: Sequence[str] = (
            *suffix_note(path, TITLE, (".json",)),
            *self._notes,
            *self._extra_note(found),
            *_size_note(index.total, self.specs),
        )

    def read(self, name: str) -> memoryview:
        """Return one tensor's bytes, read-only."""
        return self._shard_of(name).read(name)

    def readinto(self, name: str, into: memoryview, offset: int = 0) -> None:
        """Fill ``into`` with the bytes of one tensor from ``offset`` on."""
        self._shard_of(name).readinto(name, into, offset)

    def extent(self, name: str) -> Extent | None:
        """Say where the bytes lie, as the shard does."""
        return self._shard_of(name).extent(name)

    def check_unchanged(self) -> None:
        """Raise IntegrityError if the index or a shard was written to since it was opened."""
        if _state(self._path) != self._index_state:
            raise _changed(self._path)
        for shard, state in self._states.items():
            if _state(self._path.parent / shard) != state:
                raise _changed(self._path.parent / shard)

    def close(self) -> None:
        """Give the handles back."""
        with self._lock:
            for checkpoint in self._opened.values():
                checkpoint.close()
            self._opened.clear()
            self._where = {}

    def _open_all(self, shards: Sequence[str]) -> dict[str, Specs]:
        """Open every shard once, for its header.

        Raises:
            UnsafeError: one of them asks to run code.
            CorruptError: one is missing or damaged.
            UnsupportedError: one is of another kind.
        """
        found: dict[str, Specs] = {}
        errors: list[FormatError] = []
        for shard in shards:
            try:
                checkpoint = self._shard(shard)
            except FormatError as error:
                errors.append(error)
            except NotFoundError:
                errors.append(
                    CorruptError(
                        f"the shard {shard!r} is missing. Download it to the folder of the index."
                    )
                )
            else:
                found[shard] = checkpoint.specs
                self._notes |= dict.fromkeys(checkpoint.notes)
                inside = {k: v for k, v in checkpoint.metadata.items() if PYTORCH.get(k) != v}
                self._metadata |= inside
                self._training += getattr(checkpoint, "training_state", ())
                self._other += getattr(checkpoint, "other", ())
        if errors:
            _raise_worst(self._path, errors)
        return found

    def _pick(self, found: Mapping[str, Specs]) -> dict[str, Spec]:
        lacking = [n for n, shard in self._where.items() if n not in found[shard]]
        if lacking:
            faults = [f"{self._where[n]} does not hold {n!r}" for n in lacking]
            more = f" and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
            raise CorruptError(
                f"{self._path}: {'; '.join(faults[:_SHOWN])}{more}. Index and shards are of "
                "different models; get them again from their source.",
                faults=faults,
            )
        return {name: found[shard][name] for name, shard in self._where.items()}

    def _extra_note(self, found: Mapping[str, Specs]) -> tuple[str, ...]:
        extra = [n for shard, specs in found.items() for n in specs if self._where.get(n) != shard]
        if not extra:
            return ()
        few = ", ".join(extra[:_SHOWN]) + ("…" if len(extra) > _SHOWN else "")
        return (f"{len(extra)} tensors are in no index and left out ({few}).",)

    def _shard_of(self, name: str) -> Checkpoint:
        try:
            shard = self._where[name]
        except KeyError:
            raise NotFoundError(f"{self._path}: has no tensor {name!r}.") from None
        return self._shard(shard)

    def _shard(self, shard: str) -> Checkpoint:
        """Return an open shard. The handle of one that falls out closes with its last reader."""
        with self._lock:
            if (checkpoint := self._opened.get(shard)) is not None:
                self._opened.move_to_end(shard)
                return checkpoint
            path = self._path.parent / shard
            checkpoint = open_file(path, salvage=self._salvage, among=SINGLE)
            if self._states.setdefault(shard, _state(path)) != _state(path):
                raise _changed(path)
            self._opened[shard] = checkpoint
            if len(self._opened) > _OPEN:
                self._opened.popitem(last=False)
            return checkpoint


class _Index:
    """The parsed index; raises with every fault it finds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.faults: list[str] = []
        found = self._json(_text(path))
        self.weight_map = self._map(found.get("weight_map"))
        self.shards = tuple(dict.fromkeys(self.weight_map.values()))
        metadata = found.get("metadata")
        metadata = metadata if isinstance(metadata, dict) else {}
        self.total = metadata.get(TOTAL)
        self.metadata = {k: _as_text(v) for k, v in metadata.items() if k != TOTAL}
        if len(self.shards) > _MOST_SHARDS:
            self.faults.append(f"names {len(self.shards)} shards; the limit is {_MOST_SHARDS}")
        self.faults += [
            f"the shard {name[:200]!r} is not the plain name of a file beside the index"
            for name in self.shards
            if not is_plain_name(name)
        ]
        self._raise()

    def _raise(self) -> None:
        if self.faults:
            more = f" (and {len(self.faults) - 3} more faults)" if len(self.faults) > 3 else ""
            raise CorruptError(
                f"{self.path}: {'; '.join(self.faults[:3])}{more}. Get the index again from its "
                "source.",
                faults=self.faults,
            )

    def _json(self, text: str) -> dict[str, Any]:
        try:
            found = json.loads(text, object_pairs_hook=self._pairs)
        except (ValueError, RecursionError) as error:
            self.faults.append(f"its {len(text)} letters are not JSON: {why_not_json(error)}")
            self._raise()
            raise AssertionError from error  # not reached: there is a fault
        return found if isinstance(found, dict) else {}

    def _pairs(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            self.faults.append(f"{len(pairs) - len(made)} keys appear twice")
        return made

    def _map(self, found: Any) -> dict[str, str]:
        if not isinstance(found, dict):
            self.faults.append("weight_map is not a map of tensors to files")
            return {}
        self.faults += [
            f"{name[:200]!r} lies in {str(shard)[:40]}, which is no file name"
            for name, shard in found.items()
            if not isinstance(shard, str)
        ]
        return {name: shard for name, shard in found.items() if isinstance(shard, str)}


def _text(path: Path) -> str:
    size = path.stat().st_size
    if size > _INDEX_BYTES:
        raise UnsupportedError(
            f"{path}: an index of {size} bytes; the limit is {_INDEX_BYTES}. Cut the model into parts."
        )
    raw = path.read_bytes()
    if raw.count(b",") + raw.count(b"{") + raw.count(b"[") > DEFAULT.header_values:
        raise UnsupportedError(
            f"{path}: an index of more than {DEFAULT.header_values} values, the limit. Cut the model "
            "into parts."
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorruptError(f"{path}: is not UTF-8 ({error.reason}). Get it again.") from None


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _state(path: Path) -> tuple[int, ...]:
    try:
        stat = os.stat(path)  # noqa: PTH116
    except FileNotFoundError:
        return ()
    return stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_dev


def _changed(path: Path) -> IntegrityError:
    return IntegrityError(
        f"{path}: changed while it was read. Try again when nothing writes to it."
    )


def _size_note(total: Any, specs: Specs) -> tuple[str, ...]:
    size = sum(spec.nbytes for spec in specs.values())
    if type(total) is not int or total == size:
        return ()
    return (f"The index states {total} bytes of tensors; there are {size}.",)


def _raise_worst(path: Path, errors: Sequence[FormatError]) -> None:
    """Raise all errors as the gravest kind among them."""
    kinds: tuple[type[FormatError], ...] = (UnsafeError, CorruptError, UnsupportedError)
    kind = next(k for k in kinds if any(isinstance(e, k) for e in errors))
    first = [e for e in errors if isinstance(e, kind)]
    rest = [e for e in errors if not isinstance(e, kind)]
    more = f" (and {len(errors) - 1} more shards)" if len(errors) > 1 else ""
    raise kind(
        f"{path}: {first[0]}{more}",
        faults=[fault for error in (*first, *rest) for fault in error.faults],
    )


TITLE = "an index of shards"
SUFFIXES = (".safetensors.index.json",)


class _Format:
    title = TITLE
    suffixes = SUFFIXES
    source = "https://huggingface.co/docs/safetensors; transformers 5"

    def sniff(self, head: bytes) -> bool:
        """JSON text with the names that only an index has."""
        text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
        # the length that a safetensors file begins with has zeros in it
        return text[:1] == b"{" and b"\0" not in text[:8] and (b'"weight_map"' in text)

    def sniff_folder(self, names: frozenset[str]) -> bool:
        """Never: the folder of an index is opened as ``diffusers_folder``."""
        return False

    def open(self, path: Path, *, salvage: bool = False) -> Sharded:
        """Read the index and the headers of all shards."""
        return Sharded(path, salvage=salvage)

    def create(self, path: Path) -> ShardedSink:
        """Return a sink of shards of 5 GB; ``formats.create`` takes other sizes."""
        return ShardedSink(path)


PLUGIN = _Format()
