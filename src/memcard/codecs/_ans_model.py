"""The tables of the rANS codecs: groups of contexts, how often each symbol comes, and their packed form."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import zstandard

from memcard.errors import CorruptError

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"

LANES = 32
PRECISION = (
    12  # frequencies of a context add up to 2^12: a table of 16 KiB, three fit the first cache
)
STATE = 1 << 16  # a lane's state when nothing is coded; between symbols it lies in 2^16..2^32
_TABLE_BYTES = 2 * 256 + 2 * 256 * 256


@dataclass(frozen=True, eq=False)
class Model:
    """Groups of neighbouring contexts, and how often each symbol comes in them.

    Attributes:
        first: the lowest context of each group, ascending; contexts below the first belong to it too.
        frequencies: [groups, 256], uint16; each row adds up to 2^PRECISION.
    """

    first: Array
    frequencies: Array

    @property
    def where(self) -> Array:
        """Return the group of each of the 256 contexts."""
        found = np.searchsorted(self.first, np.arange(256), "right").astype(np.int64) - 1
        groups: Array = np.maximum(found, 0)
        return groups

    def packed(self) -> bytes:
        """Return the tables, compressed."""
        used = 256 - np.argmax(self.frequencies[:, ::-1] > 0, axis=1)  # symbols up to the last one
        flat = self.frequencies[np.arange(256) < used[:, None]].astype("<u2")
        planes = flat.view(np.uint8).reshape(-1, 2).T  # the high bytes are mostly zero
        raw = self.first.tobytes() + (used - 1).astype(np.uint8).tobytes() + planes.tobytes()
        return zstandard.ZstdCompressor(level=3).compress(raw)


def model_from(packed: bytes | memoryview, groups: int) -> Model:
    """Read the tables of a block.

    Raises:
        CorruptError: they are damaged.
    """
    try:
        if zstandard.get_frame_parameters(packed).content_size > _TABLE_BYTES:
            raise CorruptError("ans: a block claims tables larger than any can be.")
        raw = zstandard.ZstdDecompressor().decompress(packed, max_output_size=_TABLE_BYTES)
    except zstandard.ZstdError as error:
        raise CorruptError(f"ans: the tables of a block are damaged: {error}.") from None
    part = np.frombuffer(raw, np.uint8)
    first, used = part[:groups], part[groups : 2 * groups].astype(np.int64) + 1
    if used.size != groups or (np.diff(first.astype(np.int64)) <= 0).any():
        raise CorruptError("ans: the groups of a block are out of order.")
    planes = part[2 * groups :]
    if planes.size != 2 * used.sum():
        raise CorruptError("ans: the tables of a block have another size than they say.")
    flat = planes[: planes.size // 2] | planes[planes.size // 2 :].astype(np.uint16) << 8
    frequencies = np.zeros((groups, 256), np.uint16)
    frequencies[np.arange(256) < used[:, None]] = flat
    if (frequencies.sum(axis=1, dtype=np.int64) != 1 << PRECISION).any():
        raise CorruptError("ans: the frequencies of a block do not add up.")
    return Model(first, frequencies)


_OWN = threading.local()


def scratch(name: str, size: int) -> Array:
    """Return bytes this thread may use until it asks for the same name again; not cleared.

    A fresh array of a megabyte is memory that the system must clear first, page by page: that took
    a third of the time of coding.
    """
    have: Array | None = getattr(_OWN, name, None)
    if have is None or have.size < size:
        have = np.empty(max(size, 1 << 16), np.uint8)
        setattr(_OWN, name, have)
    return have[:size]
