"""Checkpoints that show another one: whole, in part, or under other names. No byte is touched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from memcard.core.checkpoint import Checkpoint, Extent
from memcard.core.tensors import Specs


class View:
    """Another checkpoint, seen through. Subclasses change what they have to."""

    def __init__(self, whole: Checkpoint) -> None:
        self._whole = whole

    @property
    def format(self) -> str:
        """Name of the format, or ``recipe``."""
        return self._whole.format

    @property
    def specs(self) -> Specs:
        """Name to dtype and shape, in file order."""
        return self._whole.specs

    @property
    def metadata(self) -> Mapping[str, str]:
        """Free text the checkpoint carries about itself."""
        return self._whole.metadata

    @property
    def notes(self) -> Sequence[str]:
        """What a careful user should know; one sentence each."""
        return self._whole.notes

    def read(self, name: str) -> memoryview:
        """Return one tensor: little-endian, row-major, read-only bytes."""
        return self._whole.read(name)

    def readinto(self, name: str, into: memoryview, offset: int = 0) -> None:
        """Fill ``into`` with the bytes of one tensor that start at ``offset``."""
        self._whole.readinto(name, into, offset)

    def extent(self, name: str) -> Extent | None:
        """Where the bytes lie as they are; None if nowhere."""
        return self._whole.extent(name)

    def close(self) -> None:
        """Give back the file handle."""
        self._whole.close()


class Part(View):
    """Some tensors of a checkpoint."""

    def __init__(self, whole: Checkpoint, names: Iterable[str]) -> None:
        super().__init__(whole)
        self._specs: Specs = {name: whole.specs[name] for name in names}

    @property
    def specs(self) -> Specs:
        """Name to dtype and shape, of the chosen tensors only."""
        return self._specs
