"""What a tensor is, told without reading it: equal identities mean equal bytes.

A library knows the BLAKE3 of every tensor. Of a plain file that no library knows, the place says it: the file
as the disk knows it, its size and time, and where the bytes lie. What is computed is what computes it, of what.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from blake3 import blake3

from memcard.core.checkpoint import Checkpoint, Extent

CONTENT: Final = "blake3:"  # begins the identity of bytes whose digest is known

# Says what the bytes of an extent are.
Place: TypeAlias = Callable[[Extent], str]
# Fills memory with bytes of the object of this digest, from this offset on; False if it has none.
Supply: TypeAlias = Callable[[str, int, memoryview], bool]


def identity(checkpoint: Checkpoint, name: str, place: Place | None = None) -> str | None:
    """Return what a tensor is; None where nothing tells it, so that it equals no other.

    A checkpoint with a method ``identity_of(name, place)`` knows more than where its bytes lie.

    Args:
        checkpoint: any.
        name: of a tensor in it.
        place: says what the bytes of an extent are; None: by file, time and offset.
    """
    place = place or by_place
    own = getattr(checkpoint, "identity_of", None)
    if own is not None:
        found: str | None = own(name, place)
        return found
    extent = checkpoint.extent(name)
    return None if extent is None else place(extent)


def by_place(extent: Extent) -> str:
    """Return what bytes of a file are, as far as the file system tells."""
    found = extent.path.stat()
    return (
        f"file:{found.st_dev}:{found.st_ino}:{found.st_mtime_ns}:{found.st_size}:"
        f"{extent.offset}:{extent.size}"
    )


def derived(what: str, *parts: str) -> str:
    """Return the identity of what is made of other bytes."""
    whole = blake3(what.encode())
    for part in parts:
        whole.update(b"\0" + part.encode())
    return f"made:{whole.hexdigest()}"


def supply(checkpoint: Checkpoint, source: Supply | None) -> None:
    """Let a checkpoint, and all it is made of, ask ``source`` before it unpacks anything; None: nobody."""
    take = getattr(checkpoint, "supplied_by", None)
    if take is not None:
        take(source)
