"""Byte planes, each compressed by itself: first all first bytes of the values, then all second bytes.

The high bytes of weights (sign and exponent) are much alike and compress well; the low ones are noise, which
is stored as it is where zstd would not make it smaller.

Layout of one block: for each plane a little-endian u32, whose top bit says that the plane is stored as it is
and whose other bits are its length; then the planes. Specified in ``docs/spec/delta.md``.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import zstandard

from memcard.errors import CorruptError

Values: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"

LEVEL = 1  # as small as level 3 on weights within 0.1 %, in half the time
_STORED = 1 << 31
UNSIGNED: Mapping[int, Any] = {
    1: np.dtype("<u1"),
    2: np.dtype("<u2"),
    4: np.dtype("<u4"),
    8: np.dtype("<u8"),
}


def values_of(part: memoryview, item: int) -> Values:
    """View bytes as unsigned whole numbers of ``item`` bytes."""
    found: Values = np.frombuffer(part, UNSIGNED[item])
    return found


def pack(values: Values) -> bytes:
    """Compress values plane by plane."""
    item, press = values.dtype.itemsize, zstandard.ZstdCompressor(level=LEVEL)
    by_plane = np.ascontiguousarray(values.view(np.uint8).reshape(-1, item).T)
    lengths, parts = [], []
    for plane in by_plane:
        raw = plane.tobytes()
        packed = press.compress(raw) if raw else raw
        smaller = len(packed) < len(raw)
        parts.append(packed if smaller else raw)
        lengths.append(len(parts[-1]) | (0 if smaller else _STORED))
    return struct.pack(f"<{item}I", *lengths) + b"".join(parts)


def unpack(packed: memoryview, out: Values) -> None:
    """Undo ``pack``; ``out`` has as many values as went in.

    Raises:
        CorruptError: the block is damaged or not of this size.
    """
    item, count = out.dtype.itemsize, out.size
    if len(packed) < 4 * item:
        raise CorruptError("planes: the block ends in its header.")
    target, at = out.view(np.uint8).reshape(-1, item), 4 * item
    for i, length in enumerate(struct.unpack_from(f"<{item}I", packed)):
        size = length & (_STORED - 1)
        part = packed[at : at + size]
        raw = bytes(part) if length & _STORED else unpressed(part, count)
        if len(part) != size or len(raw) != count:
            raise CorruptError(f"planes: plane {i} has {len(raw)} values, {count} are needed.")
        target[:, i] = np.frombuffer(raw, np.uint8)
        at += size
    if at != len(packed):
        raise CorruptError(f"planes: the block has {len(packed)} bytes, its header says {at}.")


def unpressed(part: memoryview, count: int) -> bytes:
    """Return what a zstd frame holds, ``count`` bytes.

    Raises:
        CorruptError: it is damaged, or holds more or less.
    """
    try:
        # A frame that claims more than the tensor has is refused before memory is taken for it.
        if zstandard.get_frame_parameters(part).content_size != count:
            raise CorruptError("planes: a plane claims another size than its tensor's.")
        return zstandard.ZstdDecompressor().decompress(part, max_output_size=count)
    except zstandard.ZstdError as error:
        raise CorruptError(f"planes: {error}.") from None
