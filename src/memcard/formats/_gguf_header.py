"""The header of a GGUF file: key-value pairs and tensor infos, every claim checked before it is believed.

Source: ggml docs/gguf.md, gguf 0.19 ``gguf_reader.py``; the checks are those whose absence were bugs
there (llama.cpp #25378) or in ggml's own reader.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from memcard.core.limits import DEFAULT
from memcard.core.tensors import DTYPES, QUANTIZED, DType, Spec
from memcard.errors import CorruptError, UnsupportedError
from memcard.formats._source import Source

MAGIC = b"GGUF"
VERSIONS = (1, 2, 3)
_PLAIN = {0: "F32", 1: "F16", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 30: "BF16"}
_PACKED = {2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K"}
_PACKED |= {12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS"}
_PACKED |= {18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS"}
_PACKED |= {29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4", 41: "Q1_0"}
GGML_TYPES: Mapping[int, DType] = {n: DTYPES[name] for n, name in _PLAIN.items()} | {
    n: QUANTIZED[name] for n, name in _PACKED.items()
}
_NEWEST_TYPE = (
    256  # numbers below it may be types of a later ggml, or removed ones; above is damage
)

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}  # fmt: skip
_STRING, _ARRAY = 8, 9
_MOST_DIMS = 5  # ggml stops at 4; ComfyUI-GGUF writes video models' patch embedding with 5
_MOST_NAME = 65_535
_MOST_FAULTS = 1000
_TOO_LONG = 1 << 62
_LEAST_PAIR, _LEAST_INFO = 9, 20  # bytes, with v1's short lengths and empty names
_SHOWN_INSIDE = 4
_SHOWN_ITEMS = 32  # of an array; the vocabulary of a language model has 150,000
_PAGE = 1 << 20

ORIGINAL_SHAPE = "comfy.gguf.orig_shape."  # ComfyUI-GGUF flattens what does not fill whole blocks


@dataclass(frozen=True, slots=True)
class Info:
    """One tensor as the file lists it; ``shape`` is row-major, ``begin`` counts from the data."""

    name: str
    shape: tuple[int, ...]
    kind: int
    begin: int


class Header:
    """The parsed header; raises with every fault it finds.

    Attributes:
        version: 1 to 3.
        metadata: every pair as text.
        specs: tensors in file order.
        begins: where each begins after ``data_offset``.
        data_offset: where the tensors begin in the file.
    """

    def __init__(self, source: Source) -> None:
        self.path, self.size = source.path, source.size
        self.faults: list[str] = []
        self.unknown: list[str] = []
        self._read = _Reader(source)
        self.version = self._version()
        self.metadata: dict[str, str] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        tensors, pairs = self._count("tensors", _LEAST_INFO), self._count("pairs", _LEAST_PAIR)
        self.alignment = 32
        for number in range(pairs):
            self._pair(number)
        infos = [self._info(number) for number in range(tensors)]
        self.data_offset = self._read.at + -self._read.at % self.alignment
        self.specs: dict[str, Spec] = {}
        self.begins: dict[str, int] = {}
        for info in infos:
            self._tensor(info)
        self._check_shapes()
        if not self.faults and not self.unknown:
            self._contiguous()
        self._raise()

    def _raise(self) -> None:
        faults = self.faults + self.unknown
        if not faults:
            return
        more = f" (and {len(faults) - 3} more faults)" if len(faults) > 3 else ""
        text = f"{self.path}: {'; '.join(faults[:3])}{more}."
        if self.faults:
            raise CorruptError(
                f"{text} The file is damaged; get it again from its source.", faults=faults
            )
        raise UnsupportedError(
            f"{text} Use a file with other quantisation, or a newer memcard.", faults=faults
        )

    def _fault(self, text: str) -> None:
        if len(self.faults) < _MOST_FAULTS:
            self.faults.append(text)

    def _version(self) -> int:
        raw = self._read.take(8)[4:]
        version = int.from_bytes(raw, "little")
        if int.from_bytes(raw, "big") in VERSIONS:
            raise UnsupportedError(
                f"{self.path}: is a big-endian GGUF file, made for IBM Z or Power. Turn it around "
                "with 'gguf-convert-endian FILE little', a program of the PyPI package gguf."
            )
        if version in VERSIONS:
            self._read.short = version == 1
            return version
        if version == 0 or version > 1000:
            raise CorruptError(
                f"{self.path}: claims GGUF version {version}. Get it again from its source."
            )
        raise UnsupportedError(
            f"{self.path}: is GGUF version {version}; this memcard knows 1 to 3. Use a newer one."
        )

    def _count(self, what: str, least: int) -> int:
        count = self._read.length()
        if count * least > self._read.left or count > _TOO_LONG:
            raise CorruptError(
                f"{self.path}: claims {count} {what}, which its {self.size} bytes cannot hold. "
                "Get it again from its source."
            )
        if count > DEFAULT.tensors:
            raise UnsupportedError(
                f"{self.path}: holds {count} {what}; the limit is {DEFAULT.tensors}. Cut the file into parts."
            )
        return count

    def _pair(self, number: int) -> None:
        self._read.inside = f"the key of pair {number}"
        key = self._text(self._read.string(_MOST_NAME))
        self._read.inside = f"the pair {key[:200]!r}"
        kind = self._read.u32()
        if not key:  # nobody writes it; a wrong count makes zeros look like it
            self._fault(f"pair {number} has no key")
        if key in self.metadata:
            self._fault(f"the key {key[:200]!r} appears twice")
        self.metadata[key] = value = self._value(key, kind, nested=0)
        if key == "general.alignment":
            self._align(kind, value)
        elif key.startswith(ORIGINAL_SHAPE):
            self._shapes[key.removeprefix(ORIGINAL_SHAPE)] = _as_shape(value)

    def _align(self, kind: int, value: str) -> None:
        number = int(value) if kind in (0, 2, 4, 10) else 0
        if number < 1 or number & (number - 1) or number > 1 << 20:
            self._fault(f"general.alignment is {value[:40]}, not a power of two")
        else:
            self.alignment = number

    def _value(self, key: str, kind: int, nested: int) -> str:
        if kind == _STRING:
            return self._text(self._read.string(DEFAULT.header_bytes))
        if kind == _ARRAY:
            return self._array(key, nested)
        if kind not in _SCALARS:
            self._stop(f"{key[:200]!r} is of type {kind}, which GGUF does not have")
        scalar = _SCALARS[kind]
        return _as_text(self._read.scalar(scalar), scalar)

    def _array(self, key: str, nested: int) -> str:
        """Return the items as JSON if they are few, else the first and how many there are."""
        kind, count = self._read.u32(), self._read.length()
        if nested > 1:
            self._stop(f"{key[:200]!r} is an array in an array in an array")
        least = struct.calcsize(_SCALARS[kind]) if kind in _SCALARS else self._read.least_item(kind)
        if count * least > self._read.left:
            self._stop(f"{key[:200]!r} claims {count} items, with {self._read.left} bytes left")
        shown = [self._value(key, kind, nested + 1) for _ in range(min(count, _SHOWN_ITEMS))]
        if nested:
            shown = shown[:_SHOWN_INSIDE]
        items = ", ".join(
            json.dumps(item, ensure_ascii=False) if kind == _STRING else item for item in shown
        )
        if count == len(shown):
            return f"[{items}]"
        self._pass_over(key, kind, count - _SHOWN_ITEMS, nested)
        return f"[{items}, … {count} in all]"

    def _pass_over(self, key: str, kind: int, count: int, nested: int) -> None:
        """Check items of an array that nobody wants to see."""
        if kind in _SCALARS:
            self._read.skip(max(0, count) * struct.calcsize(_SCALARS[kind]))
        elif kind == _STRING:
            self._read.skip_strings(count)
        else:
            for _ in range(count):
                self._value(key, kind, nested + 1)

    def _info(self, number: int) -> Info:
        read = self._read
        read.inside = f"the name of tensor {number}"
        name = self._text(read.string(_MOST_NAME))
        read.inside = f"the entry of {name[:200]!r}"
        count = read.u32()
        if count > _MOST_DIMS:
            self._stop(f"{name[:200]!r} claims {count} axes; at most {_MOST_DIMS} are known")
        if not name:
            self._fault(f"tensor {number} has no name")
        dims = [read.length() for _ in range(count)]
        kind, begin = read.u32(), read.u64()
        return Info(name, tuple(reversed(dims)), kind, begin)

    def _tensor(self, info: Info) -> None:
        shown = repr(info.name[:200])
        dtype = GGML_TYPES.get(info.kind)
        if info.name in self.specs:
            self._fault(f"the tensor {shown} appears twice")
        if dtype is None and info.kind < _NEWEST_TYPE:
            self.unknown.append(f"{shown} is of ggml type {info.kind}, not known here")
        elif dtype is None:
            self._fault(f"{shown} is of type {info.kind}, which ggml does not have")
        spec = Spec(dtype or DTYPES["U8"], info.shape)
        if max(info.shape, default=0) >= _TOO_LONG or spec.elements >= _TOO_LONG:
            self._fault(f"{shown} claims the shape {list(info.shape)}, too large for any file")
        elif info.shape and info.shape[-1] % spec.dtype.block:
            self._fault(f"{shown}: {spec} does not fill its rows with blocks of {spec.dtype.block}")
        elif not info.shape and spec.dtype.block > 1:
            self._fault(f"{shown}: {spec} is less than one block")
        if info.begin % self.alignment:
            self._fault(f"{shown} begins at {info.begin}, not a multiple of {self.alignment}")
        self.specs[info.name] = spec
        self.begins[info.name] = info.begin

    def _check_shapes(self) -> None:
        """Give tensors the shapes they had before ComfyUI-GGUF flattened them."""
        for name, shape in self._shapes.items():
            if name not in self.specs:
                continue  # a tensor that was taken out; its pair stayed
            was = Spec(self.specs[name].dtype, shape)
            if was.elements != self.specs[name].elements:
                self._fault(
                    f"{name[:200]!r} has the shape {list(self.specs[name].shape)}, but its original "
                    f"shape is stated as {list(shape)}"
                )
            self.specs[name] = was

    def _contiguous(self) -> None:
        """Refuse holes, overlaps and foreign bytes: what no tensor names may be another program."""
        reach, available = 0, max(0, self.size - self.data_offset)
        order = sorted(self.specs, key=lambda n: (self.begins[n], self.specs[n].nbytes))
        for name in order:
            begin, size = self.begins[name], self.specs[name].nbytes
            if begin != reach + -reach % self.alignment:
                kind = "overlaps the one before" if begin < reach else "leaves a hole before it"
                self._fault(f"{name[:200]!r} begins at {begin}, expected {reach}: it {kind}")
            if begin + size > available:
                self._fault(
                    f"{name[:200]!r} ends at byte {begin + size}, the data at {available}: cut off"
                )
            reach = max(reach, begin + size)
        if available > reach + -reach % self.alignment:
            self._fault(
                f"the tensors end at byte {reach}, the data at {available}: followed by foreign bytes"
            )
        self.specs = {name: self.specs[name] for name in order}

    def _text(self, raw: bytes) -> str:
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            self._fault(f"{self._read.inside}: {raw[:40]!r} is not UTF-8")
            return raw.decode("utf-8", "replace")

    def _stop(self, text: str) -> NoReturn:
        """Raise now: what follows cannot be found without this value."""
        self.faults.append(text)
        self._raise()
        raise AssertionError  # not reached: there is a fault


class _Reader:
    """Takes values from the front of a file; a claim beyond its end is an error, not a wait."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._page, self._start = b"", 0
        self._limit = min(source.size, DEFAULT.header_bytes)
        self.at = 0
        self.short = False  # v1 counts with 4 bytes
        self.inside = "its first words"  # for messages

    @property
    def left(self) -> int:
        return self._source.size - self.at

    def take(self, size: int) -> bytes:
        if size > self._limit - self.at:
            self._refuse(size)
        begin = self.at - self._start
        if begin + size > len(self._page):
            self._page, self._start = self._source.bytes(self.at, max(size, _PAGE)), self.at
            begin = 0
        self.at += size
        return self._page[begin : begin + size]

    def skip(self, size: int) -> None:
        """Pass over bytes that nobody wants to see."""
        if size > self._limit - self.at:
            self._refuse(size)
        self.at += size

    def skip_strings(self, count: int) -> None:
        size = 4 if self.short else 8
        for _ in range(count):
            self.skip(int.from_bytes(self.take(size), "little"))

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def length(self) -> int:
        return int.from_bytes(self.take(4 if self.short else 8), "little")

    def least_item(self, kind: int) -> int:
        """Fewest bytes of a text, or of an array in an array."""
        return (4 if self.short else 8) + (4 if kind == _ARRAY else 0)

    def string(self, most: int) -> bytes:
        size = self.length()
        if size > most:
            raise CorruptError(
                f"{self._source.path}: {self.inside} claims a text of {size} bytes; at most {most} "
                "are plausible. Get the file again from its source."
            )
        return self.take(size)

    def scalar(self, kind: str) -> bool | float:
        value: bool | float = struct.unpack("<" + kind, self.take(struct.calcsize(kind)))[0]
        return value

    def _refuse(self, size: int) -> NoReturn:
        if size <= self.left:
            raise UnsupportedError(
                f"{self._source.path}: its header has more than {DEFAULT.header_bytes} bytes, the "
                "limit. Make it again without the vocabulary."
            )
        raise CorruptError(
            f"{self._source.path}: ends inside {self.inside}: {size} bytes are claimed at byte "
            f"{self.at}, {self.left} are left. Get the file again from its source."
        )


def _as_text(value: bool | float, kind: str) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if kind == "f":  # the fewest digits that give the same 32 bits: 0.1, not 0.10000000149011612
        digits = (f"{value:.{n}g}" for n in range(6, 9))
        return next((t for t in digits if _same_single(float(t), value)), f"{value:.9g}")
    return str(value)


def _same_single(value: float, single: float) -> bool:
    try:
        return struct.unpack("<f", struct.pack("<f", value)) == (single,)
    except OverflowError:  # the largest single, rounded up
        return False


def _as_shape(text: str) -> tuple[int, ...]:
    """Return the numbers of an array as shown; () with none, which fits no tensor of many values."""
    try:
        found = json.loads(text)
    except ValueError:
        return ()
    whole = isinstance(found, list) and all(type(n) is int and 0 <= n < _TOO_LONG for n in found)
    return tuple(found) if whole else ()
