"""Python's garbage collector, told to wait where thousands of objects are made that stay."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

OURS: list[bool] = []  # true in a process that runs one command of ours


@contextmanager
def waiting() -> Iterator[None]:
    """Collect nothing meanwhile, in any thread.

    Importing torch and diffusers makes a million objects, none of them garbage; looking through them again and
    again takes a quarter of the time. In a process that is ours alone they are not looked through later either.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if OURS:
            gc.freeze()
        if was_on:
            gc.enable()
