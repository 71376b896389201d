"""Round wide floats to narrow ones, once, to nearest even, and count what is lost.

Two ways with the same bits: numpy at first, and loops compiled for this processor, ten times as fast,
once a process has rounded enough values for making them to pay. Where they cannot be had, numpy goes on.

NaN stays NaN: its sign and the first bits of its payload are kept, and it is made quiet, as the
hardware does it.

Source: IEEE 754-2019 §4.3.1; float8 as in ml_dtypes (E4M3 has no infinity: what is too large is NaN).
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from threading import Lock, local
from types import ModuleType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from ml_dtypes import bfloat16, float8_e4m3fn, float8_e5m2
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Double: TypeAlias = NDArray[np.float64]

# Values per inner block: two float64 arrays of them just fill a 1 MiB second-level cache.
BLOCK = 1 << 16

# Values rounded by numpy before the loops are compiled: as long as compiling them takes.
_WORTH = 1 << 25
# Bits of the fraction, bias, infinity's code (NaN's, where there is none), the plain NaN's code.
_NARROW: Mapping[Any, tuple[int, int, int, int]] = {
    np.dtype(np.float16): (10, 15, 0x7C00, 0x7E00),
    np.dtype(bfloat16): (7, 127, 0x7F80, 0x7FC0),
    np.dtype(float8_e4m3fn): (3, 7, 0x7F, 0x7F),
    np.dtype(float8_e5m2): (2, 15, 0x7C, 0x7E),
}
_WIDE: Mapping[Any, tuple[int, int]] = {
    np.dtype(np.float32): (23, 127),
    np.dtype(np.float64): (52, 1023),
}
_CUT = np.uint64((1 << 29) - 1)  # the bits that float64 has beyond float32

_local = local()


class Rounded(NamedTuple):
    """What rounding did to the values.

    Attributes:
        wild: how many results are NaN or infinite.
        small: how many values other than zero lie below the smallest normal result.
        gone: how many of these became zero.
    """

    wild: int = 0
    small: int = 0
    gone: int = 0


def scratch(place: int, size: int, dtype: Any) -> Array:
    """Return this thread's array number ``place``; its values are left over from earlier use."""
    arrays: dict[tuple[int, Any], Array] = _local.__dict__.setdefault("arrays", {})
    key = place, np.dtype(dtype)
    if key not in arrays or len(arrays[key]) < size:
        arrays[key] = np.empty(max(size, BLOCK), dtype)
    return arrays[key][:size]


def round_to(values: Array, out: Array) -> Rounded:
    """Round float32 or float64 to the dtype of ``out``; ``values`` are spent.

    Args:
        values: contiguous, native float32 or float64.
        out: contiguous, as long as ``values``; float64, float32, float16, bfloat16, float8.
    """
    if out.dtype not in _NARROW:
        return _wide(values, out)
    compiled = _kernels.after(values.size)
    if compiled is None:
        return _by_numpy(values, out)
    return Rounded(*compiled.narrow(values, out, _WIDE[values.dtype], _NARROW[out.dtype]))


def announce(count: int) -> None:
    """Say how many values will be rounded, so that what pays is loaded before they come."""
    _kernels.after(count)


def compiled(count: int) -> ModuleType | None:
    """Return ``maths/_kernels.py`` if it is loaded, or if ``count`` more values make it pay."""
    return _kernels.after(count)


class _Kernels:
    """The compiled loops, once they are there."""

    def __init__(self) -> None:
        self._module: ModuleType | None = None
        self._seen = 0
        self._lock = Lock()
        self._tried = False

    def after(self, count: int) -> ModuleType | None:
        """Return the loops if they are there; load them when it pays."""
        if self._tried:
            return self._module
        with self._lock:
            self._seen += count
            if self._seen >= _WORTH and not self._tried:
                self._load()
        return self._module

    def _load(self) -> None:
        try:
            self._module = import_module("memcard.maths._kernels")
        except Exception:  # noqa: BLE001  # no llvmlite here, or a broken one: numpy does the same
            self._module = None
        self._tried = True


_kernels = _Kernels()


@np.errstate(all="ignore")  # what overflows is counted
def _wide(values: Array, out: Array) -> Rounded:
    """Round to float32 or float64: one instruction a value, which numpy knows."""
    np.copyto(out, values, casting="unsafe")
    if values.itemsize <= out.itemsize:
        return Rounded(wild=_wild(values))
    least = np.finfo(np.float32).smallest_normal
    small = np.abs(values) < least
    small &= values != 0
    lost = int(np.count_nonzero(small))
    gone = int(np.count_nonzero(out[small] == 0)) if lost else 0
    return Rounded(_wild(out), lost, gone)


def _wild(values: Array) -> int:
    """Count what is not finite; the usual answer, none, without an array of answers."""
    peak = max(values.max(initial=0), -values.min(initial=0))
    return 0 if peak < np.inf else int(values.size - np.count_nonzero(np.isfinite(values)))


@np.errstate(all="ignore")
def _by_numpy(values: Array, out: Array) -> Rounded:
    """Round to 16 bits or fewer with what numpy and ml_dtypes have."""
    _, bias, top, _ = _NARROW[out.dtype]
    small = np.abs(values) < 2.0 ** (1 - bias)
    small &= values != 0
    lost = int(np.count_nonzero(small))
    nan = np.isnan(values) if np.isnan(values.max(initial=0)) else None
    codes: Any = out.view(np.uint8 if out.itemsize == 1 else np.uint16)
    patterns = _nan_codes(values[nan], out.dtype) if nan is not None else None
    # float32 has fewer bits down here, so going through it would round twice.
    exact = _small_codes(values[small], out.dtype) if lost and values.itemsize == 8 else None
    if values.itemsize == 8 and out.dtype != np.float16:  # ml_dtypes goes through float32
        _round_to_odd(values)
    if out.dtype == bfloat16:
        _to_brain(values, codes)
    else:
        np.copyto(out, values, casting="unsafe")
    if nan is not None:
        codes[nan] = patterns
    if exact is not None:
        codes[small] = exact
    unsigned = codes.dtype.type((1 << (8 * out.itemsize - 1)) - 1)
    wild = int(np.count_nonzero((codes & unsigned) >= top))
    gone = int(np.count_nonzero((codes[small] & unsigned) == 0)) if lost else 0
    return Rounded(wild, lost, gone)


def _nan_codes(values: Array, dtype: Any) -> Array:
    """Return the narrow codes of NaNs: quiet, with sign and the first bits of the payload."""
    less, _, _, quiet = _NARROW[dtype]
    fraction, _ = _WIDE[values.dtype]
    bits: Any = values.view(np.uint32 if values.itemsize == 4 else np.uint64).astype(np.uint64)
    sign = (bits >> (8 * values.itemsize - 1)) << (8 * dtype.itemsize - 1)
    payload = (bits >> (fraction - less)) & ((1 << less) - 1)
    return np.asarray(sign | payload | quiet, np.uint16)


def _small_codes(values: Double, dtype: Any) -> Array:
    """Return the codes of values below the smallest normal: whole numbers of the smallest step."""
    less, bias, _, _ = _NARROW[dtype]
    steps = np.rint(np.abs(values) * 2.0 ** (bias - 1 + less)).astype(np.uint16)
    return np.asarray(steps | (np.signbit(values) * np.uint16(1 << (8 * dtype.itemsize - 1))))


def _round_to_odd(values: Double) -> None:
    """Cut float64 to the precision of float32, the last bit saying whether anything was cut off.

    Rounding that to 16 bits or fewer gives what rounding the float64 itself gives; rounding to
    float32 in the ordinary way first would round twice. Source: Boldo, Melquiond 2008, "Emulation
    of FMA and correctly rounded sums: proved algorithms using rounding to odd".
    """
    bits, sticky = values.view(np.uint64), scratch(-2, values.size, np.uint64)
    np.bitwise_and(bits, _CUT, out=sticky)
    np.add(sticky, _CUT, out=sticky)  # carries into bit 29 unless all bits were zero
    np.bitwise_or(bits, sticky, out=bits)
    np.bitwise_and(bits, ~_CUT, out=bits)


def _to_brain(values: Array, out: Array) -> None:
    """Round to bfloat16 on the bits; ml_dtypes would keep other threads waiting meanwhile."""
    single, half = (scratch(i, values.size, d) for i, d in ((-1, np.float32), (-3, np.uint32)))
    np.copyto(single, values, casting="unsafe")
    bits = single.view(np.uint32)
    np.right_shift(bits, 16, out=half)
    np.bitwise_and(half, np.uint32(1), out=half)
    np.add(half, np.uint32(0x7FFF), out=half)  # rounds up above the middle, and at it if odd
    np.add(bits, half, out=bits)
    np.right_shift(bits, 16, out=bits)
    np.copyto(out, bits, casting="unsafe")
