"""Open any checkpoint: a file, or a name of the starter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Self

from memcard.core.checkpoint import Checkpoint, Extent
from memcard.core.tensors import Specs
from memcard.jobs.resolve import resolve


class Opened:
    """A checkpoint that also knows its family. Closes at the end of a ``with`` block."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    @property
    def format(self) -> str:
        """Name of the format, or ``recipe``."""
        return self._checkpoint.format

    @property
    def specs(self) -> Specs:
        """Name to dtype and shape, in file order."""
        return self._checkpoint.specs

    @property
    def metadata(self) -> Mapping[str, str]:
        """Free text the checkpoint carries about itself."""
        return self._checkpoint.metadata

    @property
    def notes(self) -> Sequence[str]:
        """What a careful user should know; one sentence each."""
        return self._checkpoint.notes

    @cached_property
    def architecture(self) -> str | None:
        """Name of the model family, from names and shapes; None if unknown or ambiguous."""
        from memcard.architectures import detect

        found = detect(self.specs)
        return found[0] if found else None

    def read(self, name: str) -> memoryview:
        """Return one tensor: little-endian, row-major, read-only bytes."""
        return self._checkpoint.read(name)

    def readinto(self, name: str, into: memoryview, offset: int = 0) -> None:
        """Fill ``into`` with the bytes of one tensor that start at ``offset``."""
        self._checkpoint.readinto(name, into, offset)

    def extent(self, name: str) -> Extent | None:
        """Where the bytes lie as they are; None if nowhere."""
        return self._checkpoint.extent(name)

    def close(self) -> None:
        """Give back the file handle."""
        self._checkpoint.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<checkpoint: {self.format}, {len(self.specs)} tensors>"


def open(ref: str | Path) -> Opened:  # noqa: A001  # the name other programs rely on
    """Open a checkpoint. Nothing in the file is executed; only headers are read.

    Args:
        ref: a path, ``starter``, ``starter/raw`` or ``starter/STYLE``.

    Raises:
        FormatError: the file cannot be read as a checkpoint.
        NotFoundError: nothing has this name.
    """
    return Opened(resolve(ref))
