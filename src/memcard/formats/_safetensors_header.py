"""The JSON header of a safetensors file: read with every fault it has, or laid out for a new file.

Source: safetensors 0.8 ``src/tensor.rs``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memcard.core.limits import DEFAULT
from memcard.core.tensors import DTYPES, Spec, Specs
from memcard.errors import CorruptError, UnsupportedError
from memcard.formats._planned import Plan
from memcard.formats._source import Source

LENGTH = 8  # bytes of the header's length field
_ALIGN = 8
_MISSING = frozenset({"C32", "C128"})  # torch's dtypes that this format has no name for
_KNOWN = {name: dtype for name, dtype in DTYPES.items() if name not in _MISSING}
_FIELDS = frozenset({"dtype", "shape", "data_offsets"})
_WHOLE = {int}
_TOO_LONG = 1 << 62
_MAX_DIMS = 64  # torch's own limit
_MOST_FAULTS = 1000
_ENDS = (b"}", b" ", b"\n", b"\t", b"\r")
_SHORT = 16 << 20
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_MINUS_ZERO = re.compile(rb"-0(?![.eE\d])")  # Python reads it as 0, the reference as a fraction
_EMOJI = re.compile(rb"[\xf0-\xf4]")  # first bytes of letters beyond 65,535


def read_header(source: Source) -> bytes:
    """Return the header as it is in the file.

    Raises:
        CorruptError: the file is too short, or claims more than the format allows.
    """
    path, size = source.path, source.size
    if size < LENGTH:
        raise CorruptError(f"{path}: has {size} bytes, too few for a header. Get the file again.")
    length = int.from_bytes(source.bytes(0, LENGTH), "little")
    if length > DEFAULT.header_bytes:
        raise CorruptError(
            f"{path}: claims a header of {length} bytes; the format allows {DEFAULT.header_bytes}. "
            "Get the file again from its source."
        )
    if length > size - LENGTH:
        raise CorruptError(
            f"{path}: claims a header of {length} bytes, the file has {size}. The download was "
            "probably cut off; get it again."
        )
    return source.bytes(LENGTH, length)


class Header:
    """The parsed header; raises with every fault it finds.

    Attributes:
        specs: in the order in which the tensors lie in the file.
        begins: where each begins after ``data_offset``, in bytes.
        data_offset: where the header ends in the file.
        metadata: text by text.
    """

    def __init__(self, source: Source) -> None:
        self.path = source.path
        self.faults: list[str] = []
        self.specs: dict[str, Spec] = {}
        self.begins: dict[str, int] = {}
        self._seen: dict[tuple[str, tuple[int, ...]], tuple[Spec, int]] = {}  # few shapes, often
        text = self._text(source)
        entries = self._json(text)
        del text  # may be 100 MB
        self.metadata = self._metadata(entries.pop("__metadata__", None))
        ranges = [self._entry(name, entry) for name, entry in entries.items()]
        if not self.faults:
            self._contiguous(ranges, source.size - self.data_offset)
        self._raise()

    def _raise(self) -> None:
        if self.faults:
            more = f" (and {len(self.faults) - 3} more faults)" if len(self.faults) > 3 else ""
            raise CorruptError(
                f"{self.path}: {'; '.join(self.faults[:3])}{more}. The file is damaged; get it "
                "again from its source.",
                faults=self.faults,
            )

    def _fault(self, text: str) -> None:
        if len(self.faults) < _MOST_FAULTS:  # enough to see what kind of damage it is
            self.faults.append(text)

    def _text(self, source: Source) -> str:
        """Return the header as text; its bytes are given back before anything is parsed."""
        raw = read_header(source)
        self.data_offset = LENGTH + len(raw)
        if not raw.startswith(b"{"):
            self._fault("the header does not start with '{'")
            self._raise()
        if b"\0" in raw or not raw.endswith(_ENDS):  # half a download is zeros
            self._fault("the header is not UTF-8 JSON: it has zero bytes in it, or no end")
            self._raise()
        self._check_values(raw)
        # Python keeps a whole text as wide as its widest letter: one emoji makes 400 MB of 100.
        width = 1 if len(raw) < _SHORT or raw.isascii() else 4 if _EMOJI.search(raw) else 2
        if len(raw) * width > DEFAULT.header_bytes:
            raise UnsupportedError(
                f"{self.path}: its header of {len(raw)} bytes takes {len(raw) * width} in memory; the "
                f"limit is {DEFAULT.header_bytes}. Shorten its metadata."
            )
        self._odd_text = _SURROGATE.search(raw) is not None
        self._odd_numbers = _MINUS_ZERO.search(raw) is not None
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._no_json(error) from None

    def _json(self, text: str) -> dict[str, Any]:
        numbers = _refuse_minus_zero if self._odd_numbers else None  # a hook costs time
        try:
            found = json.loads(
                text,
                object_pairs_hook=self._pairs,
                parse_constant=_refuse_constant,
                parse_int=numbers,
            )
        except (ValueError, RecursionError) as error:
            raise self._no_json(error) from None
        return dict(found)

    def _no_json(self, error: Exception) -> AssertionError:
        """Raise for a header that cannot be parsed at all."""
        self._fault(f"the header is not UTF-8 JSON: {why_not_json(error)}")
        self._raise()
        return AssertionError()  # not reached: there is a fault

    def _check_values(self, raw: bytes) -> None:
        """Refuse what would take minutes and gigabytes to parse, before it is parsed."""
        entries = raw.count(b'"data_offsets"')
        if entries > DEFAULT.tensors:
            raise UnsupportedError(
                f"{self.path}: holds {entries} tensors; the limit is {DEFAULT.tensors}. Cut the file "
                "into shards."
            )
        values = sum(raw.count(mark) for mark in (b",", b"{", b"["))
        if values <= DEFAULT.header_values:
            return
        text = (
            f"{self.path}: its header of {len(raw)} bytes holds {values} values for {entries} "
            f"tensors; the limit is {DEFAULT.header_values}."
        )
        # Without a word of free text, so many values belong to nothing that the format knows.
        if b"__metadata__" in raw:
            raise UnsupportedError(f"{text} Shorten its metadata.")
        raise CorruptError(f"{text} Get the file again from its source.")

    def _pairs(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if self._odd_text and not all(map(is_unicode, made)):
            self._fault("a key is not valid Unicode")
        if len(made) != len(pairs):
            seen: set[str] = set()
            for key, _ in pairs:
                if key in seen:
                    self._fault(f"key {key[:200]!r} appears twice")
                seen.add(key)
        return made

    def _metadata(self, found: Any) -> dict[str, str]:
        if found is None:
            return {}
        if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
            self._fault("__metadata__ is not a map of text to text")
            return {}
        if not all(is_unicode(k) and is_unicode(v) for k, v in found.items()):
            self._fault("__metadata__ is not valid Unicode")
        return found

    def _entry(self, name: str, entry: Any) -> tuple[int, int, str]:
        """Note one tensor. The usual case first: a large model has thousands."""
        begin = end = 0
        spec: Spec | None = None
        try:
            begin, end = entry["data_offsets"]
            dtype, listed = entry["dtype"], entry["shape"]
            shape = tuple(listed)
            spec, size = self._seen.get((dtype, shape)) or self._spec(dtype, shape)
            # 2.0 and True are equal to whole numbers, but none: only the types tell
            kinds = {type(begin), type(end), *map(type, shape)}
            lists = type(listed) is type(entry["data_offsets"]) is list
            right = lists and kinds == _WHOLE and begin >= 0 and end - begin == size
        except (KeyError, TypeError, ValueError):
            right = False
        if spec is None or not (right and end < _TOO_LONG and is_unicode(name)):
            before = len(self.faults)
            self._explain(name, entry)
            if len(self.faults) == before and before < _MOST_FAULTS:
                self._fault(f"{name[:200]!r}: is not a tensor's entry")
            return 0, 0, name
        self.specs[name] = spec
        self.begins[name] = begin
        return begin, end, name

    def _spec(self, dtype: Any, shape: tuple[Any, ...]) -> tuple[Spec, int]:
        if len(shape) > _MAX_DIMS or not all(type(n) is int and 0 <= n < _TOO_LONG for n in shape):
            raise ValueError
        spec = Spec(_KNOWN[dtype], shape)
        if spec.elements * spec.dtype.block_bytes % spec.dtype.block:
            raise ValueError
        self._seen[dtype, shape] = found = spec, spec.nbytes
        return found

    def _explain(self, name: str, entry: Any) -> None:
        """Say everything that is wrong with an entry."""
        shown = repr(name[:200])
        if not is_unicode(name):
            self._fault(f"{shown}: the name is not valid Unicode")
        if not isinstance(entry, dict) or not entry.keys() >= _FIELDS:
            self._fault(f"{shown}: needs dtype, shape and data_offsets")
            return
        before = len(self.faults)
        dtype = _KNOWN.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
        if dtype is None:
            self._fault(f"{shown}: unknown dtype {str(entry['dtype'])[:40]!r}")
        if not _naturals(entry["shape"]):
            self._fault(f"{shown}: shape {_short(entry['shape'])} is not whole numbers")
        elif (axes := len(entry["shape"])) > _MAX_DIMS:
            self._fault(f"{shown}: has {axes} axes; the limit is {_MAX_DIMS}")
        offsets = entry["data_offsets"]
        if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
            self._fault(f"{shown}: data_offsets {_short(offsets)} are not a range")
        if len(self.faults) > before or dtype is None:
            return
        spec = Spec(dtype, tuple(entry["shape"]))
        if spec.elements * dtype.block_bytes % dtype.block:
            self._fault(f"{shown}: {spec} does not fill whole bytes")
        elif spec.nbytes != offsets[1] - offsets[0]:
            self._fault(f"{shown}: {spec} takes {spec.nbytes} bytes, has {offsets[1] - offsets[0]}")

    def _contiguous(self, ranges: list[tuple[int, int, str]], size: int) -> None:
        reach = 0
        ranges.sort(key=lambda r: r[:2])
        for begin, end, name in ranges:
            if begin != reach:
                kind = "overlaps the one before" if begin < reach else "leaves a hole before it"
                self._fault(f"{name[:200]!r} begins at {begin}, expected {reach}: it {kind}")
            reach = max(reach, end)
        if reach != size:
            hint = "cut off" if reach > size else "followed by foreign bytes"
            self._fault(f"the tensors end at byte {reach}, the data at {size}: {hint}")
        self.specs = {name: self.specs[name] for _, _, name in ranges}


def why_not_json(error: Exception) -> str:
    """Return the reason in a few words; Python's own for deep nesting speaks of Python."""
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)[:120]


def _refuse_minus_zero(text: str) -> int:
    if text == "-0":
        raise ValueError("-0 is no size")
    return int(text)


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < _TOO_LONG for n in value)


def _short(value: Any) -> str:
    """Return the start of a value from a hostile file; a number may have thousands of digits."""
    if isinstance(value, list):
        more = ", …" if len(value) > 8 else ""
        return f"[{', '.join(_short(n) for n in value[:8])}{more}]"
    if type(value) is int and abs(value) >= _TOO_LONG:
        return f"a number of {value.bit_length()} bits"
    return str(value)[:40] if not isinstance(value, dict) else "{…}"


def is_unicode(text: str) -> bool:
    """Whether UTF-8 can hold the text; half a surrogate pair it cannot."""
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def plan(specs: Specs, metadata: Mapping[str, str], path: Path) -> Plan:
    """Lay out a new file: header, then the tensors in the order given.

    Raises:
        UnsupportedError: the format cannot hold a tensor or a name; lists all.
    """
    faults = _cannot_hold(specs, metadata)
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
    text += b" " * (-len(text) % _ALIGN)  # tensor bytes then start at a multiple of 8
    if len(text) > DEFAULT.header_bytes:
        raise UnsupportedError(
            f"{path}: the header would take {len(text)} bytes; the format allows "
            f"{DEFAULT.header_bytes}. Shorten the metadata."
        )
    start = LENGTH + len(text)
    places = {name: (start + begins[name], spec.nbytes) for name, spec in specs.items()}
    return Plan(start + reach, ((0, len(text).to_bytes(LENGTH, "little") + text),), places)


def _cannot_hold(specs: Specs, metadata: Mapping[str, str]) -> list[str]:
    faults = [
        f"{name!r} is {spec.dtype}, which safetensors has no name for"
        for name, spec in specs.items()
        if spec.dtype.name not in _KNOWN
    ]
    faults += [
        f"{name!r}: {spec} does not fill whole bytes"
        for name, spec in specs.items()
        if spec.elements * spec.dtype.block_bytes % spec.dtype.block
    ]
    faults += [f"{n!r} cannot be a name" for n in specs if n == "__metadata__" or not is_unicode(n)]
    return faults + [
        f"metadata {k!r} is not valid Unicode"
        for k, v in metadata.items()
        if not (is_unicode(k) and is_unicode(v))
    ]
