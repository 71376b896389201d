"""One thread for numpy's BLAS while small matrices are multiplied.

Two reasons. Its threads wait for each other in a loop: factoring a 320x2880 layer took 68 ms of CPU on
two busy cores instead of 12. And sums are added in another order with another number of threads, so
that the bits would depend on the machine's load and settings.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

_lock = Lock()
# numpy's wheels have carried OpenBLAS under these names since 1.26 and before.
_ENDINGS = (
    ("scipy_openblas_", "64_"),
    ("scipy_openblas_", ""),
    ("openblas_", "64_"),
    ("openblas_", ""),
)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let numpy's own BLAS use one thread; where it is not OpenBLAS, do nothing.

    The setting belongs to the process: blocks wait for each other, and others' products in other
    threads are single too for that time.
    """
    found = _switches()
    if found is None:
        yield
        return
    get, put = found
    with _lock:
        before = get()
        put(1)
        try:
            yield
        finally:
            put(before)


@cache
def _switches() -> tuple[Any, Any] | None:
    """Return the functions that read and set the number of threads; None where there are none."""
    home = Path(np.__file__).parent
    for folder in (home.parent / "numpy.libs", home / ".dylibs", home / ".libs"):
        for path in sorted(folder.glob("*openblas*")):
            library = ctypes.CDLL(str(path))  # loaded already: this only finds it
            for start, end in _ENDINGS:
                get = getattr(library, f"{start}get_num_threads{end}", None)
                put = getattr(library, f"{start}set_num_threads{end}", None)
                if get is not None and put is not None:
                    return get, put
    return None
