"""Python's garbage collector, told to wait where thousands of objects are made that stay."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_MANY: Final = 500  # modules: torch, diffusers and transformers have more
OURS: Final[list[bool]] = []  # true in a process that runs one command of ours


@contextmanager
def waiting() -> Iterator[None]:
    """Collect nothing meanwhile, in any thread.

    Importing torch and diffusers makes a million objects, none of them garbage; looking through them again and
    again takes a quarter of the time. In a process that is ours alone they are not looked through later either;
    what a later load makes is, or a process that stays would keep its garbage.
    """
    was_on, modules = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if OURS and len(sys.modules) - modules >= _MANY:
            gc.freeze()
        if was_on:
            gc.enable()
