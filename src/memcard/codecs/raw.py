"""The bytes as they are, for what nothing makes smaller. Source: none needed; docs/spec/delta.md."""

from __future__ import annotations

from memcard.errors import CorruptError


class Raw:
    """Copies."""

    title = "As it is"
    source = "docs/spec/delta.md"
    needs_base = False

    def encode(self, new: memoryview, item: int, base: memoryview | None = None) -> bytes:
        """Return the same bytes."""
        return bytes(new)

    def decode(
        self, packed: memoryview, out: memoryview, item: int, base: memoryview | None = None
    ) -> None:
        """Copy back."""
        if len(packed) != len(out):
            raise CorruptError(f"raw: {len(packed)} bytes are stored, {len(out)} are needed.")
        out[:] = packed


PLUGIN = Raw()
