"""Let numpy's linear algebra work on one thread for a while.

OpenBLAS hands even small least squares to all processors, whose threads then wait for each other in a loop:
of packing many small files a quarter of the processor's time went there, and more on a busy machine. Where numpy
has another library, or hides it, nothing is changed.

Source: the names of ``openblas_set_num_threads`` in the builds that NumPy's wheels bring along.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TypeAlias

_Calls: TypeAlias = tuple[Callable[[], int], Callable[[int], None]]
_NAMES = ("scipy_openblas_{}64_", "openblas_{}64_", "scipy_openblas_{}", "openblas_{}")


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit OpenBLAS to one thread; what it had before comes back afterwards."""
    found = _calls()
    if found is None:
        yield
        return
    get, limit = found
    before = get()
    limit(1)
    try:
        yield
    finally:
        limit(before)


@cache
def _calls() -> _Calls | None:
    """Return what asks for and sets the number of threads."""
    import numpy as np

    here = Path(np.__file__).parent
    for folder in (here.parent / "numpy.libs", here / ".dylibs", here / ".libs"):
        for path in sorted(folder.glob("*openblas*")):
            if (found := _in(path)) is not None:
                return found
    return None


def _in(path: Path) -> _Calls | None:
    try:
        library = ctypes.CDLL(str(path))  # numpy has loaded it: this is the same one
    except OSError:
        return None
    for name in _NAMES:
        get = getattr(library, name.format("get_num_threads"), None)
        limit = getattr(library, name.format("set_num_threads"), None)
        if get is not None and limit is not None:
            get.restype, get.argtypes = ctypes.c_int, []
            limit.restype, limit.argtypes = None, [ctypes.c_int]
            return get, limit
    return None
