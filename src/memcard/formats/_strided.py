"""Bytes of a view that do not lie as they are wanted: strided, big-endian, lazily negated; a part at a time.

Only the asked part is gathered; the storage is mapped, so memory stays at the size of the part.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from memcard.formats._source import Source
from memcard.unpickle.nodes import TensorView
from memcard.unpickle.torch_dtypes import swap_unit

if TYPE_CHECKING:
    import numpy as np


class Bytes(Protocol):
    """The bytes of one storage."""

    def readinto(self, offset: int, into: memoryview) -> None:
        """Fill ``into`` from ``offset`` on."""
        ...

    def window(self, offset: int, size: int) -> tuple[mmap.mmap, int]:
        """Return a map of at least these bytes, and where ``offset`` is in it."""
        ...


@dataclass(frozen=True, slots=True)
class Plain:
    """A storage that lies as it is in a file."""

    source: Source
    start: int

    def readinto(self, offset: int, into: memoryview) -> None:
        """Fill ``into`` from ``offset`` on."""
        self.source.readinto(self.start + offset, into)

    def window(self, offset: int, size: int) -> tuple[mmap.mmap, int]:
        """Return a map of at least these bytes, and where ``offset`` is in it."""
        self.source.readinto(self.start + offset + size - 1, memoryview(bytearray(1)))
        return self.source.window(self.start + offset, size)


def gather(storage: Bytes, view: TensorView, *, swap: bool, into: memoryview, offset: int) -> None:
    """Fill ``into`` with bytes ``offset`` and on of ``view``.

    Args:
        storage: the bytes of the whole storage.
        view: checked geometry; not empty.
        swap: turn big-endian values around.
        into: one-dimensional bytes, not empty.
        offset: byte of the row-major tensor.
    """
    import numpy as np

    item, unit = view.itemsize, swap_unit(view.dtype)
    first, last = offset // item, -(-(offset + len(into)) // item)
    part = _items(storage, view, first, last)
    if swap and unit > 1:
        part = part.view(f"u{unit}").byteswap()
    if view.conjugated or view.negated:
        part = _flipped(part.view(f"u{unit}"), view, is_complex=unit < item)
    raw = part.view(np.uint8)
    skip = offset - first * item
    np.frombuffer(into, np.uint8)[:] = raw[skip : skip + len(into)]


def _flipped(
    numbers: np.ndarray[Any, np.dtype[Any]], view: TensorView, *, is_complex: bool
) -> np.ndarray[Any, np.dtype[Any]]:
    """Flip sign bits, which is what torch's ``resolve_conj`` and ``resolve_neg`` come to."""
    sign = numbers.dtype.type(1 << (8 * numbers.itemsize - 1))
    if view.negated:
        numbers ^= sign
    if view.conjugated and is_complex:
        numbers[1::2] ^= sign
    return numbers


def _items(
    storage: Bytes, view: TensorView, first: int, last: int
) -> np.ndarray[Any, np.dtype[Any]]:
    """Return some of the values in row-major order, as bits of their width."""
    import numpy as np

    item = view.itemsize
    # Only moved, never computed; there is no unsigned integer of 16 bytes.
    kind = np.dtype(f"u{item}") if item <= 8 else np.dtype(np.complex128)
    if view.contiguous:
        buffer = bytearray((last - first) * item)
        storage.readinto(view.offset + first * item, memoryview(buffer))
        return np.frombuffer(buffer, kind)
    span = sum((n - 1) * s for n, s in zip(view.shape, view.stride, strict=True)) + 1
    window, at = storage.window(view.offset, span * item)
    steps = tuple(s * item for s in view.stride)
    strided: np.ndarray[Any, np.dtype[Any]] = np.ndarray(view.shape, kind, window, at, steps)
    return strided.flat[first:last]
