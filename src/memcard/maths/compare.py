"""How far one tensor lies from another: sums that add up over chunks, tensors and blocks.

Everything is summed in float64, in blocks of a fixed size and in file order, so the figures do not
depend on the number of threads. With d = b - a:

    relative norm  ||d|| / ||a||
    cosine         <a, b> / (||a|| ||b||)

Only <a, a>, <a, d> and <d, d> are summed; <a, b> and <b, b> follow without cancellation, as d is small
beside a whenever the difference matters. What is not finite on either side (NaN, infinity) is counted
and left out of the sums; equal bits are equal, also of a NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from math import isfinite, nan, sqrt
from typing import Any, Final

import ml_dtypes
import numpy as np

from memcard.core.tensors import DType
from memcard.maths.floats import BLOCK, STORED, Array, Double, decode, scratch
from memcard.maths.quantized import can_dequantize, dequantize

# How many parts a value has: complex numbers are compared part by part.
_PARTS: Final[Mapping[str, tuple[str, int]]] = {
    "C32": ("F16", 2),
    "C64": ("F32", 2),
    "C128": ("F64", 2),
}
_INTEGERS: Final[Mapping[str, Any]] = {
    "BOOL": np.dtype("u1"),
    **{f"{s}{8 * n}": np.dtype(f"<{s.lower()}{n}") for s in "IU" for n in (1, 2, 4, 8)},
}
_BYTES: Final[Mapping[str, Any]] = {
    "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
    "F8_E8M0": ml_dtypes.float8_e8m0fnu,
}


@dataclass(frozen=True, slots=True)
class Distance:
    """Sums over pairs of values; adding two gives the sums over both.

    Attributes:
        values: how many pairs.
        equal: how many of them have equal bits, or equal values if the dtypes differ. Of packed dtypes
            whole blocks count.
        odd: how many have NaN or infinity on a side and were left out of the sums below.
        aa, ad, dd: <a, a>, <a, d> and <d, d> with d = b - a.
        largest: the largest |d|.
    """

    values: int = 0
    equal: int = 0
    odd: int = 0
    aa: float = 0.0
    ad: float = 0.0
    dd: float = 0.0
    largest: float = 0.0

    def __add__(self, other: Distance) -> Distance:
        return Distance(
            self.values + other.values,
            self.equal + other.equal,
            self.odd + other.odd,
            self.aa + other.aa,
            self.ad + other.ad,
            self.dd + other.dd,
            max(self.largest, other.largest),
        )

    @property
    def same(self) -> bool:
        """Whether every value is equal."""
        return self.equal == self.values

    @property
    def share(self) -> float:
        """Share of equal values, 0..1; 1 if there are none at all."""
        return self.equal / self.values if self.values else 1.0

    @property
    def relative(self) -> float | None:
        """||b - a|| / ||a||; infinite if only a is zero; None if the sums overflowed."""
        if not isfinite(self.aa + self.dd):
            return None
        if self.aa == 0:
            return 0.0 if self.dd == 0 else float("inf")
        return sqrt(self.dd / self.aa)

    @property
    def cosine(self) -> float | None:
        """Cosine between a and b, -1..1; None where one of them is zero or the sums overflowed."""
        bb = self.aa + 2 * self.ad + self.dd
        if not isfinite(bb) or self.aa <= 0 or bb <= 0:
            return 1.0 if self.values and self.same else None
        return max(-1.0, min(1.0, (self.aa + self.ad) / sqrt(self.aa) / sqrt(bb)))


def has_values(dtype: DType) -> bool:
    """Tell whether numbers can be read from this dtype here; else only its bytes can be compared."""
    return _reader(dtype) is not None


def same_bytes(a: memoryview, b: memoryview) -> bool:
    """Compare at the speed of memory, other threads running."""
    whole = len(a) // 8 * 8
    wide = np.array_equal(np.frombuffer(a[:whole], "u8"), np.frombuffer(b[:whole], "u8"))
    return len(a) == len(b) and wide and bytes(a[whole:]) == bytes(b[whole:])


def distance(a: memoryview, kind_a: DType, b: memoryview, kind_b: DType) -> Distance:
    """Compare two runs of as many values.

    Args:
        a: bytes of the one, whole blocks of its dtype.
        kind_a: their dtype.
        b: bytes of the other, as many values.
        kind_b: their dtype.

    Returns:
        The sums. Where numbers cannot be read (see ``has_values``) only ``values`` and ``equal``, and
        if the dtypes differ nothing is equal.
    """
    values = len(a) // kind_a.block_bytes * kind_a.block
    equal = _equal_bits(a, b, kind_a) if kind_a == kind_b else None
    one, two = _reader(kind_a), _reader(kind_b)
    if one is None or two is None:
        return Distance(values, equal or 0, aa=nan, ad=nan, dd=nan, largest=nan)
    total = Distance()
    parts = _PARTS.get(kind_a.name, ("", 1))[1]
    if parts != _PARTS.get(kind_b.name, ("", 1))[1]:  # complex beside real
        return Distance(values, 0, aa=nan, ad=nan, dd=nan, largest=nan)
    with np.errstate(all="ignore"):
        for at in range(0, values * parts, BLOCK):
            count = min(BLOCK, values * parts - at)
            left, right = (scratch(i, count, np.float64) for i in (10, 11))
            one(a, at, left)
            two(b, at, right)
            total += _sums(left, right)
    if parts > 1 and equal is None:  # every part was counted
        equal = total.equal // parts
    return Distance(
        values,
        total.equal if equal is None else equal,
        total.odd,
        total.aa,
        total.ad,
        total.dd,
        total.largest,
    )


def squares(a: memoryview, kind: DType) -> float:
    """Return <a, a> of the finite values; NaN if numbers cannot be read."""
    read = _reader(kind)
    if read is None:
        return nan
    count = len(a) // kind.block_bytes * kind.block * _PARTS.get(kind.name, ("", 1))[1]
    total = 0.0
    with np.errstate(all="ignore"):
        for at in range(0, count, BLOCK):
            values = scratch(10, min(BLOCK, count - at), np.float64)
            read(a, at, values)
            found = float(np.einsum("i,i->", values, values))
            if not isfinite(found):
                values[~np.isfinite(values)] = 0
                found = float(np.einsum("i,i->", values, values))
            total += found
    return total


def _sums(a: Double, b: Double) -> Distance:
    """Sum one block; ``a`` and ``b`` are spent. ``equal`` counts equal values, two NaN being equal."""
    equal = int(np.count_nonzero(a == b))
    d = scratch(12, a.size, np.float64)
    np.subtract(b, a, out=d)
    aa, ad, dd = (float(np.einsum("i,i->", x, y)) for x, y in ((a, a), (a, d), (d, d)))
    odd = 0
    if not isfinite(aa + ad + dd):
        bad = ~(np.isfinite(a) & np.isfinite(b))
        odd = int(np.count_nonzero(bad))
        equal += int(np.count_nonzero(np.isnan(a) & np.isnan(b)))
        a[bad] = 0
        d[bad] = 0
        aa, ad, dd = (float(np.einsum("i,i->", x, y)) for x, y in ((a, a), (a, d), (d, d)))
    np.abs(d, out=d)
    return Distance(a.size, equal, odd, aa, ad, dd, float(d.max(initial=0.0)))


def _equal_bits(a: memoryview, b: memoryview, kind: DType) -> int:
    """Count equal values, or equal packed blocks times their size."""
    size = kind.block_bytes
    unit = next(u for u in (8, 4, 2, 1) if size % u == 0)
    same = np.frombuffer(a, f"u{unit}") == np.frombuffer(b, f"u{unit}")
    if size > unit:
        same = same.reshape(-1, size // unit).all(axis=1)
    return int(np.count_nonzero(same)) * kind.block


@cache
def _reader(kind: DType) -> Callable[[memoryview, int, Double], None] | None:
    """Return what fills a float64 array from value ``at`` on; None if nothing can."""
    name = _PARTS.get(kind.name, (kind.name, 1))[0]
    if kind.quantized:
        return _block_reader(kind)
    if name == "F4":
        return _read_pairs
    if name in _BYTES:
        return _table_reader(name)
    dtype = STORED.get(name, _INTEGERS.get(name))
    if dtype is None:
        return None

    def read(raw: memoryview, at: int, out: Double) -> None:
        part: Array = np.frombuffer(raw, dtype, out.size, at * dtype.itemsize)
        if name in STORED:
            decode(part, out)
        else:
            np.copyto(out, part, casting="unsafe")

    return read


def _block_reader(kind: DType) -> Callable[[memoryview, int, Double], None] | None:
    if not can_dequantize(kind) or find_spec("gguf") is None:
        return None

    def read(raw: memoryview, at: int, out: Double) -> None:
        first, size = (n // kind.block * kind.block_bytes for n in (at, out.size))
        dequantize(raw[first : first + size], kind, out)

    return read


def _table_reader(name: str) -> Callable[[memoryview, int, Double], None]:
    table = np.arange(256, dtype=np.uint8).view(_BYTES[name]).astype(np.float64)

    def read(raw: memoryview, at: int, out: Double) -> None:
        np.take(table, np.frombuffer(raw, np.uint8, out.size, at), out=out, mode="clip")

    return read


_F4 = np.arange(16, dtype=np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float64)
_F4_PAIRS = np.stack([_F4[np.arange(256) & 15], _F4[np.arange(256) >> 4]], axis=1)


def _read_pairs(raw: memoryview, at: int, out: Double) -> None:
    """Unpack two values a byte, the low half first (OCP microscaling formats 1.0)."""
    part = np.frombuffer(raw, np.uint8, out.size // 2, at // 2)
    np.take(_F4_PAIRS, part, axis=0, out=out.reshape(-1, 2), mode="clip")
