"""The tables of the rANS codecs: groups of contexts, how often each symbol comes, and their packed form."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"

LANES = 32
PRECISION = (
    12  # frequencies of a context add up to 2^12: a table of 16 KiB, three fit the first cache
)
STATE = 1 << 16  # a lane's state when nothing is coded; between symbols it lies in 2^16..2^32
TABLE_BYTES = 2 * 256 + 2 * 256 * 256


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


def release() -> None:
    """Let go of the memory of this thread."""
    _OWN.__dict__.clear()
