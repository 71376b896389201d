"""What a codec is: a lossless way to store values, alone or against those of a base."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class Codec(Protocol):
    """Turns bytes into fewer bytes and back, exactly. The file name in ``memcard/codecs`` is its public name.

    Attributes:
        title: a few words for people.
        source: where the idea or the format is described.
        needs_base: both ways take the values of a base, as many bytes as the new ones.
    """

    title: str
    source: str
    needs_base: bool

    def encode(self, new: memoryview, item: int, base: memoryview | None = None) -> bytes:
        """Return ``new`` in fewer bytes where that is possible; from any thread.

        Args:
            new: row-major values.
            item: bytes of a value: 1, 2, 4 or 8; ``new`` is a multiple of it.
            base: as long as ``new``; only for codecs that need one.
        """
        ...

    def decode(
        self, packed: memoryview, out: memoryview, item: int, base: memoryview | None = None
    ) -> None:
        """Fill ``out`` with what ``encode`` was given.

        Args:
            packed: what ``encode`` made.
            out: gets as many bytes.
            item: as it was there.
            base: as it was there. It may be ``out`` itself, which saves a block of memory for each of several
                differences upon differences; otherwise it is left as it is.

        Raises:
            CorruptError: ``packed`` is not what ``encode`` makes of as many bytes.
        """
        ...
