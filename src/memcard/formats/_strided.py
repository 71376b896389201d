"""Bytes of a strided view, row-major and little-endian, a part at a time.

Only the asked part is gathered; the storage is mapped, so memory stays at the size of the part.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcard.formats._source import Source
from memcard.unpickle.nodes import TensorView
from memcard.unpickle.torch_dtypes import swap_unit

if TYPE_CHECKING:
    import numpy as np


def gather(
    source: Source, start: int, view: TensorView, *, swap: bool, into: memoryview, offset: int
) -> None:
    """Fill ``into`` with bytes ``offset`` and on of ``view``.

    Args:
        source: the open file.
        start: where the storage begins in it.
        view: checked geometry; not empty.
        swap: turn big-endian values around.
        into: one-dimensional bytes, not empty.
        offset: byte of the row-major tensor.
    """
    import numpy as np

    item = view.itemsize
    first, last = offset // item, -(-(offset + len(into)) // item)
    part = _items(source, start, view, first, last)
    if swap and (unit := swap_unit(view.dtype)) > 1:
        part = part.view(f"u{unit}").byteswap()
    raw = part.view(np.uint8)
    skip = offset - first * item
    np.frombuffer(into, np.uint8)[:] = raw[skip : skip + len(into)]


def _items(
    source: Source, start: int, view: TensorView, first: int, last: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.void]]:
    import numpy as np

    item = view.itemsize
    kind = (
        np.dtype(f"u{item}") if item <= 8 else np.dtype(np.complex128)
    )  # only moved, never computed
    if view.contiguous:
        buffer = bytearray((last - first) * item)
        source.readinto(start + view.offset + first * item, memoryview(buffer))
        return np.frombuffer(buffer, kind)
    span = sum((n - 1) * s for n, s in zip(view.shape, view.stride, strict=True)) + 1
    window, at = source.window(start + view.offset, span * item)
    steps = tuple(s * item for s in view.stride)
    strided: np.ndarray[tuple[int, ...], np.dtype[np.void]] = np.ndarray(
        view.shape, kind, window, at, steps
    )
    return strided.flat[first:last]
