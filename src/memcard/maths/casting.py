"""Cast stored floats to another dtype, and say what that costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock, local

import numpy as np

from memcard.core.checkpoint import Checkpoint, Extent
from memcard.core.tensors import DType, Spec, Specs
from memcard.core.views import View
from memcard.maths.floats import STORED, decode, stored
from memcard.maths.rounding import BLOCK, Array, round_to, scratch

CHUNK = 4 << 20  # bytes of the result made at once


@dataclass(frozen=True, slots=True)
class Loss:
    """What a cast did to the values of a tensor.

    Attributes:
        overflow: finite values that became infinite, or NaN where the dtype has no infinity.
        unordered: values that were NaN or infinite before.
        small: values other than zero that lie below the smallest normal value and keep fewer bits.
        gone: how many of these became zero.
    """

    overflow: int = 0
    unordered: int = 0
    small: int = 0
    gone: int = 0

    def __add__(self, other: Loss) -> Loss:
        return Loss(
            self.overflow + other.overflow,
            self.unordered + other.unordered,
            self.small + other.small,
            self.gone + other.gone,
        )

    def __bool__(self) -> bool:
        return self != Loss()


def cast(values: Array, out: Array) -> Loss:
    """Round stored floats to the dtype of ``out``, once, to nearest even.

    Args:
        values: stored floats of any dtype in ``STORED``.
        out: as long, another dtype or the same.
    """
    loss = Loss()
    for at in range(0, out.size, BLOCK):
        loss += _block(values[at : at + BLOCK], out[at : at + BLOCK])
    return loss


def _block(values: Array, out: Array) -> Loss:
    if values.dtype == out.dtype:
        out[:] = values
        return Loss()
    wide = _widened(values, out)
    if wide is None:
        return Loss()
    rounded = round_to(wide, out)
    if not rounded.wild:
        return Loss(small=rounded.small, gone=rounded.gone)
    with np.errstate(invalid="ignore"):
        before = int(values.size - np.count_nonzero(np.isfinite(values)))
    return Loss(rounded.wild - before, before, rounded.small, rounded.gone)


def _widened(values: Array, out: Array) -> Array | None:
    """Return values as float32 or float64 that may be spent; None if ``out`` has them already."""
    if out.dtype == np.float64:
        decode(values, out)  # exact, from any
        return None
    if values.dtype == np.float64:
        wide = scratch(0, values.size, np.float64)
        np.copyto(wide, values)
        return wide
    if values.dtype == np.float32:
        return np.ascontiguousarray(values)  # rounding from float32 leaves its values alone
    single = out if out.dtype == np.float32 else scratch(0, values.size, np.float32)
    _to_single(values, single)
    return None if single is out else single


def _to_single(values: Array, out: Array) -> None:
    """Widen 16 bits or fewer to float32; exact."""
    if values.dtype != STORED["BF16"]:
        with np.errstate(invalid="ignore"):
            np.copyto(out, values, casting="unsafe")
        return
    bits = out.view(np.uint32)
    np.copyto(bits, values.view(np.uint16))
    np.left_shift(bits, 16, out=bits)


class Cast(View):
    """A checkpoint whose floating-point tensors have another dtype; rounded where it is read.

    ``losses`` tells, after everything was read once, what the cast cost, per tensor.
    """

    def __init__(self, whole: Checkpoint, dtype: DType, *, names: frozenset[str]) -> None:
        """Cast the tensors ``names`` of ``whole`` to ``dtype``; the rest is seen through."""
        super().__init__(whole)
        self._names, self._dtype = names, dtype
        self._specs: Specs = {
            name: Spec(dtype, spec.shape) if name in names else spec
            for name, spec in whole.specs.items()
        }
        self._losses: dict[str, Loss] = {}
        self._lock, self._local = Lock(), local()

    @property
    def specs(self) -> Specs:
        """Name to dtype and shape, in file order."""
        return self._specs

    @property
    def losses(self) -> Mapping[str, Loss]:
        """What the cast did so far, for tensors where it did anything."""
        with self._lock:
            return dict(self._losses)

    def read(self, name: str) -> memoryview:
        """Return one tensor: little-endian, row-major, read-only bytes."""
        if name not in self._names:
            return self._whole.read(name)
        into = memoryview(bytearray(self._specs[name].nbytes))
        self.readinto(name, into)
        return into.toreadonly()

    def readinto(self, name: str, into: memoryview, offset: int = 0) -> None:
        """Fill ``into`` with the bytes of one tensor that start at ``offset``."""
        if name not in self._names:
            self._whole.readinto(name, into, offset)
            return
        item = self._dtype.block_bytes
        if offset % item or len(into) % item:
            self._read_odd(name, into, offset)
            return
        for at in range(0, len(into), CHUNK):
            self._chunk(name, into[at : at + CHUNK], (offset + at) // item)

    def extent(self, name: str) -> Extent | None:
        """Where the bytes lie, for a tensor that is not cast."""
        return None if name in self._names else self._whole.extent(name)

    def _chunk(self, name: str, into: memoryview, first: int) -> None:
        origin = self._whole.specs[name].dtype
        count, size = len(into) // self._dtype.block_bytes, origin.block_bytes
        part = self._buffer(count * size)
        self._whole.readinto(name, part, first * size)
        loss = cast(stored(part, origin), stored(into, self._dtype))
        if loss:
            with self._lock:
                self._losses[name] = self._losses.get(name, Loss()) + loss

    def _read_odd(self, name: str, into: memoryview, offset: int) -> None:
        """Serve a range that cuts through values."""
        item = self._dtype.block_bytes
        first, last = offset // item, -(-(offset + len(into)) // item)
        around = memoryview(bytearray((last - first) * item))
        self.readinto(name, around, first * item)
        into[:] = around[offset - first * item :][: len(into)]

    def _buffer(self, size: int) -> memoryview:
        """Return this thread's buffer; fresh pages cost 20 times the arithmetic."""
        found: bytearray = self._local.__dict__.get("buffer", bytearray())
        if len(found) < size:
            found = self._local.__dict__["buffer"] = bytearray(size)
        return memoryview(found)[:size]
