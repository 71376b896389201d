"""Begin to write bytes to the disk while more are still being made.

A file is safe only after fsync, and fsync of 2 GB at the end takes as long as copying them did. Asked
early, the disk works meanwhile: measured 0.60 s instead of 1.03 s for copying 2.1 GB with fsync, and
0.65 s without fsync at all. A hint only; fsync stays what decides.

Source: Linux sync_file_range(2).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache

_WRITE = 2  # SYNC_FILE_RANGE_WRITE: start, do not wait
_WORTH = 1 << 20  # fewer bytes are not worth a call; fsync takes them


def start_writeback(fd: int, offset: int, size: int) -> None:
    """Ask the kernel to begin writing a part of an open file; never fails, never waits."""
    if size >= _WORTH and (call := _system_call()) is not None:
        call(fd, offset, size, _WRITE)


@cache
def _system_call() -> Callable[[int, int, int, int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    import ctypes

    try:
        function = ctypes.CDLL(None).sync_file_range
    except (OSError, AttributeError):  # a C library without it
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    function.restype = ctypes.c_int
    call: Callable[[int, int, int, int], int] = function
    return call
