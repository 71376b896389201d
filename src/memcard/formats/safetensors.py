"""safetensors: a JSON header and plain tensor bytes.

Stricter than the reference reader in one point: a key that appears twice is refused (the reference
keeps the last, though its own README forbids duplicates).

Source: safetensors 0.8 ``src/tensor.rs``; https://github.com/huggingface/safetensors
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from memcard.core.checkpoint import Extent
from memcard.core.limits import DEFAULT
from memcard.core.tensors import DTYPES, Spec, Specs
from memcard.errors import CorruptError, NotFoundError, UnsupportedError
from memcard.formats._planned import Plan, PlannedSink
from memcard.formats._source import Source, check_range, suffix_note

_BITS = 8
_LENGTH = 8  # bytes of the header's length field
_MISSING = frozenset({"C32", "C128"})  # dtypes this format has no name for
_TOO_LONG = 1 << 62
_MAX_DIMS = 64  # torch's own limit


class Safetensors:
    """An open safetensors file; only its header was read."""

    format = "safetensors"

    def __init__(self, source: Source) -> None:
        self._source = source
        header = _read_header(source)
        self.data_offset = _LENGTH + len(header)
        parsed = _Header(source, header)
        self.specs: Specs = parsed.specs
        self.metadata: Mapping[str, str] = parsed.metadata
        self.notes: Sequence[str] = suffix_note(source.path, TITLE, SUFFIXES)
        self._begins = parsed.begins

    def read(self, name: str) -> memoryview:
        """Return one tensor's bytes, read-only."""
        offset, size = self._place(name)
        return self._source.view(offset, size)

    def readinto(self, name: str, into: memoryview, offset: int = 0) -> None:
        """Fill ``into`` with the bytes of one tensor from ``offset`` on."""
        start, size = self._place(name)
        check_range(self._source.path, name, size, offset, into.nbytes)
        if into.nbytes:
            self._source.readinto(start + offset, into)

    def extent(self, name: str) -> Extent | None:
        """Say where the bytes lie; always somewhere in this format."""
        return self._source.extent(*self._place(name))

    def check_unchanged(self) -> None:
        """Raise IntegrityError if the file was written to since it was opened."""
        self._source.check_unchanged()

    def close(self) -> None:
        """Give the handle back."""
        self._source.close()

    def _place(self, name: str) -> tuple[int, int]:
        try:
            return self.data_offset + self._begins[name], self.specs[name].nbytes
        except KeyError:
            raise NotFoundError(f"{self._source.path}: has no tensor {name!r}.") from None


def _read_header(source: Source) -> bytes:
    path, size = source.path, source.size
    if size < _LENGTH:
        raise CorruptError(f"{path}: has {size} bytes, too few for a header. Get the file again.")
    length = int.from_bytes(source.bytes(0, _LENGTH), "little")
    if length > DEFAULT.header_bytes:
        raise CorruptError(
            f"{path}: claims a header of {length} bytes; the format allows {DEFAULT.header_bytes}. "
            "Get the file again from its source."
        )
    if length > size - _LENGTH:
        raise CorruptError(
            f"{path}: claims a header of {length} bytes, the file has {size}. The download was "
            "probably cut off; get it again."
        )
    return source.bytes(_LENGTH, length)


class _Header:
    """The parsed header; raises with every fault it finds."""

    def __init__(self, source: Source, header: bytes) -> None:
        self.path = source.path
        self.faults: list[str] = []
        self.specs: dict[str, Spec] = {}
        self.begins: dict[str, int] = {}
        entries = self._json(header)
        self.metadata = self._metadata(entries.pop("__metadata__", None))
        ranges = []
        for name, entry in entries.items():
            if (found := self._entry(name, entry)) is not None:
                ranges.append((*found, name))
        if not self.faults:
            self._contiguous(ranges, source.size - _LENGTH - len(header))
        self._raise()

    def _raise(self) -> None:
        if self.faults:
            more = f" (and {len(self.faults) - 3} more faults)" if len(self.faults) > 3 else ""
            raise CorruptError(
                f"{self.path}: {'; '.join(self.faults[:3])}{more}. The file is damaged; get it "
                "again from its source.",
                faults=self.faults,
            )

    def _json(self, header: bytes) -> dict[str, Any]:
        if not header.startswith(b"{"):
            self.faults.append("the header does not start with '{'")
            self._raise()
        try:
            text = header.decode("utf-8")
            found = json.loads(text, object_pairs_hook=self._pairs, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            reason = str(error) or "nested too deeply"
            self.faults.append(f"the header is not UTF-8 JSON: {reason[:120]}")
            self._raise()
            raise AssertionError from error  # not reached: there is a fault
        return dict(found)

    def _pairs(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            seen: set[str] = set()
            for key, _ in pairs:
                if key in seen:
                    self.faults.append(f"key {key!r} appears twice")
                seen.add(key)
        return made

    def _metadata(self, found: Any) -> dict[str, str]:
        if found is None:
            return {}
        if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
            self.faults.append("__metadata__ is not a map of text to text")
            return {}
        return found

    def _entry(self, name: str, entry: Any) -> tuple[int, int] | None:
        before = len(self.faults)
        if not _is_unicode(name):
            self.faults.append(f"{name!r}: the name is not valid Unicode")
        if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
            self.faults.append(f"{name!r}: needs dtype, shape and data_offsets")
            return None
        dtype = DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
        if dtype is None or dtype.name in _MISSING:
            self.faults.append(f"{name!r}: unknown dtype {str(entry['dtype'])[:40]!r}")
        if not _naturals(entry["shape"]) or len(entry["shape"]) > _MAX_DIMS:
            self.faults.append(f"{name!r}: shape {str(entry['shape'])[:60]} is not whole numbers")
        offsets = entry["data_offsets"]
        if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
            self.faults.append(f"{name!r}: data_offsets {str(offsets)[:60]} are not a range")
        if len(self.faults) > before or dtype is None:
            return None
        spec = Spec(dtype, tuple(entry["shape"]))
        begin, end = offsets
        if spec.elements * dtype.block_bytes % dtype.block:
            self.faults.append(f"{name!r}: {spec} does not fill whole bytes")
        elif spec.nbytes != end - begin:
            self.faults.append(f"{name!r}: {spec} takes {spec.nbytes} bytes, has {end - begin}")
        self.specs[name] = spec
        self.begins[name] = begin
        return begin, end

    def _contiguous(self, ranges: list[tuple[int, int, str]], size: int) -> None:
        reach = 0
        ranges.sort(key=lambda r: r[:2])
        for begin, end, name in ranges:
            if begin != reach:
                kind = "overlaps the one before" if begin < reach else "leaves a hole before it"
                self.faults.append(f"{name!r} begins at {begin}, expected {reach}: it {kind}")
            reach = max(reach, end)
        if reach != size:
            hint = "cut off" if reach > size else "followed by foreign bytes"
            self.faults.append(f"the tensors end at byte {reach}, the data at {size}: {hint}")
        self.specs = {name: self.specs[name] for _, _, name in ranges}


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < _TOO_LONG for n in value)


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _plan(specs: Specs, metadata: Mapping[str, str], path: Path) -> Plan:
    faults = [
        f"{name!r} is {spec.dtype}, which safetensors has no name for"
        for name, spec in specs.items()
        if spec.dtype.name in _MISSING or spec.dtype.name not in DTYPES
    ]
    faults += [
        f"{name!r}: {spec} does not fill whole bytes"
        for name, spec in specs.items()
        if spec.elements * spec.dtype.block_bytes % spec.dtype.block
    ]
    faults += [
        f"{n!r} cannot be a name" for n in specs if n == "__metadata__" or not _is_unicode(n)
    ]
    faults += [
        f"metadata {k!r} is not valid Unicode"
        for k, v in metadata.items()
        if not (_is_unicode(k) and _is_unicode(v))
    ]
    if faults:
        raise UnsupportedError(
            f"{path}: {'; '.join(faults[:5])}. Leave these tensors out or write a .ckpt instead.",
            faults=faults,
        )
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    begins, reach = {}, 0
    for name, spec in specs.items():
        begins[name] = reach
        span = [reach, reach + spec.nbytes]
        entries[name] = {"dtype": spec.dtype.name, "shape": list(spec.shape), "data_offsets": span}
        reach += spec.nbytes
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _BITS)  # tensor bytes then start at a multiple of 8
    if len(text) > DEFAULT.header_bytes:
        raise UnsupportedError(
            f"{path}: the header would take {len(text)} bytes; the format allows "
            f"{DEFAULT.header_bytes}. Shorten the metadata."
        )
    start = _LENGTH + len(text)
    places = {name: (start + begins[name], spec.nbytes) for name, spec in specs.items()}
    return Plan(start + reach, ((0, len(text).to_bytes(_LENGTH, "little") + text),), places)


TITLE = "safetensors"
SUFFIXES = (".safetensors", ".sft")


class _Format:
    title = TITLE
    suffixes = SUFFIXES
    source = "https://github.com/huggingface/safetensors (0.8, src/tensor.rs)"

    def sniff(self, head: bytes) -> bool:
        """A length and the brace that opens the header (a BOM or space before it is a fault)."""
        if len(head) <= _LENGTH or int.from_bytes(head[:_LENGTH], "little") >> 40:
            return False
        return head[_LENGTH:].removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{"

    def sniff_folder(self, names: frozenset[str]) -> bool:
        """Never: this format is one file."""
        return False

    def open(self, path: Path, *, salvage: bool = False) -> Safetensors:
        """Read the header."""
        with Source(path) as source:
            return Safetensors(source)

    def create(self, path: Path) -> PlannedSink:
        """Return a sink that keeps the order of the tensors and of the metadata."""
        return PlannedSink(path, lambda specs, metadata: _plan(specs, metadata, path))


PLUGIN = _Format()
