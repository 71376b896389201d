"""Give memory that nobody uses any more back to the system.

The C library keeps what large arrays leave behind, in pieces, for every thread that ever ran: after a dozen
checkpoints were packed that was 30 MB. To hand it back takes a millisecond.

A compiler is large and works for half a second. Its pages of code stay with the process for good: of LLVM 73 MB,
half of all a small job takes. They are on the disk as they are, so they may go, and come back by themselves.

Sources: malloc_trim(3), madvise(2), proc_pid_smaps(5).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

_MAPS = Path("/proc/self/smaps")
_DONTNEED = 4  # MADV_DONTNEED of Linux


def give_back() -> None:
    """Ask the C library to return free memory; where it cannot, nothing happens."""
    if (trim := _trim()) is not None:
        trim(0)


def leave(library: str) -> None:
    """Let go of the pages of a library that are on the disk as they are; what changed in memory stays.

    May be called while other threads run its code, which then reads the pages again. Where the system cannot
    do that, nothing happens.

    Args:
        library: part of the path of its file.
    """
    if (advise := _advise()) is None:
        return
    with suppress(OSError):  # no /proc
        for begin, end in _clean(library):
            advise(begin, end - begin, _DONTNEED)


def _clean(library: str) -> list[tuple[int, int]]:
    """List the mappings of a file none of whose pages was changed since it was mapped."""
    found, place, clean, mine = list[tuple[int, int]](), (0, 0), 0, False
    with _MAPS.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            words = line.split()
            if not words[0].endswith(":"):  # the first line of a mapping
                begin, _, end = words[0].partition("-")
                place, clean = (int(begin, 16), int(end, 16)), 0
                mine = len(words) > 5 and library in line and "w" not in words[1]
            elif words[0] in ("Anonymous:", "Private_Dirty:"):
                clean += words[1] == "0"
                if mine and clean == 2:
                    found.append(place)
    return found


@cache
def _advise() -> Callable[[int, int, int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    import ctypes

    try:
        found = ctypes.CDLL(None, use_errno=True).madvise
    except (OSError, AttributeError):
        return None
    found.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    found.restype = ctypes.c_int
    call: Callable[[int, int, int], int] = found
    return call


@cache
def _trim() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    import ctypes

    try:
        found = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # another C library
        return None
    found.argtypes, found.restype = [ctypes.c_size_t], ctypes.c_int
    call: Callable[[int], int] = found
    return call
