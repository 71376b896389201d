"""The memory of each thread that reads packs: of all packs together, for a checkpoint of 7 GB lies in 28.

A recipe of two, one of them kept as the difference to the other, asks for the same block twice: as it is, and
as the base. While ``keeping`` lasts the last blocks that stand alone are kept for that.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, TypeAlias

_OWN: Final = threading.local()
_Block: TypeAlias = tuple[object, str, int]
_Kept: TypeAlias = tuple[tuple[str, int, int], memoryview]
_KEPT: Final = 2  # blocks: a piece of float32 values has up to two of a base of float16 ones


def last_block(name: _Block) -> memoryview | None:
    """Return the block that this thread decoded last, if it is the one."""
    known, part = _OWN.__dict__.get("block", (None, None))
    return part if known == name else None


def keep_last(name: _Block, part: memoryview) -> None:
    """Keep a block for the next read of this thread."""
    _OWN.block = name, part


def is_unchecked() -> bool:
    """Tell whether ``unchecked`` holds in this thread."""
    return bool(_OWN.__dict__.get("unchecked", False))


def scratch(name: str, size: int) -> memoryview:
    """Return memory this thread may use until it asks for the same name again."""
    have: bytearray | None = getattr(_OWN, name, None)
    if have is None or len(have) < size:
        have = bytearray(size)
        setattr(_OWN, name, have)
    return memoryview(have)[:size]


@contextmanager
def keeping() -> Iterator[None]:
    """Decode a block that stands alone once, for all that this thread reads meanwhile that is built on it."""
    if keeps():
        yield
        return
    _OWN.keeps = True
    try:
        yield
    finally:
        _OWN.keeps = False
        _OWN.tags = []


@contextmanager
def unchecked() -> Iterator[None]:
    """Leave out the checks of blocks in this thread: the caller compares the digest of what he makes of them."""
    before = _OWN.__dict__.get("unchecked", False)
    _OWN.unchecked = True
    try:
        yield
    finally:
        _OWN.unchecked = before


def keeps() -> bool:
    """Tell whether ``keeping`` lasts in this thread."""
    return bool(_OWN.__dict__.get("keeps", False))


def kept_block(key: str, begin: int, size: int) -> memoryview | None:
    """Return a block that this thread has still."""
    for tag, place in _tags():
        if tag == (key, begin, size):
            return place
    return None


def keep(key: str, begin: int, part: memoryview) -> None:
    """Keep a block that stands alone while ``keeping`` lasts, in place of the one that was kept first."""
    if not keeps():
        return
    tags = _tags()
    _OWN.slot = slot = (_OWN.__dict__.get("slot", 0) + 1) % _KEPT
    if len(tags) == _KEPT:
        tags.pop(0)
    place = scratch(f"kept {slot}", len(part))
    place[:] = part
    tags.append(((key, begin, len(part)), place))


def _tags() -> list[_Kept]:
    found: list[_Kept] = _OWN.__dict__.setdefault("tags", [])
    return found


def release() -> None:
    """Let go of all memory of this thread, that of the codecs too; not while ``keeping`` or ``unchecked`` last."""
    from memcard.codecs._ans_model import release as release_codecs

    _OWN.__dict__.clear()
    release_codecs()
