"""Byte planes and zstd, without a base: for tensors that are new.

Source: the byte grouping of ZipNN (Hershcovitch et al. 2024, arXiv:2411.05239); zstd is RFC 8878.
"""

from __future__ import annotations

from memcard.codecs._planes import pack, unpack, values_of


class PlanesZstd:
    """Groups the bytes of values by their place."""

    title = "Byte planes, zstd"
    source = "arXiv:2411.05239; RFC 8878"
    needs_base = False

    def encode(self, new: memoryview, item: int, base: memoryview | None = None) -> bytes:
        """Compress the values by themselves."""
        return pack(values_of(new, item))

    def decode(
        self, packed: memoryview, out: memoryview, item: int, base: memoryview | None = None
    ) -> None:
        """Put the planes together."""
        unpack(packed, values_of(out, item))


PLUGIN = PlanesZstd()
