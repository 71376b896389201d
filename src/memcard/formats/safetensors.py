"""safetensors: a JSON header and plain tensor bytes.

Stricter than the reference reader in one point: a key that appears twice is refused (the reference
keeps the last, though its own README forbids duplicates).

Source: safetensors 0.8 ``src/tensor.rs``; https://github.com/huggingface/safetensors
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from memcard.core.checkpoint import Extent
from memcard.core.tensors import Specs
from memcard.errors import NotFoundError
from memcard.formats._planned import PlannedSink
from memcard.formats._safetensors_header import LENGTH, Header, plan
from memcard.formats._source import Source, check_range, suffix_note


class Safetensors:
    """An open safetensors file; only its header was read."""

    format = "safetensors"

    def __init__(self, source: Source) -> None:
        self._source = source
        parsed = Header(source)
        self.data_offset = parsed.data_offset
        self.specs: Specs = parsed.specs
        self.metadata: Mapping[str, str] = parsed.metadata
        self.notes: Sequence[str] = suffix_note(source.path, TITLE, SUFFIXES)
        self._begins = parsed.begins

    def read(self, name: str) -> memoryview:
        """Return one tensor's bytes, read-only."""
        offset, size = self._place(name)
        return self._source.view(offset, size)

    def readinto(self, name: str, into: memoryview, offset: int = 0) -> None:
        """Fill ``into`` with the bytes of one tensor from ``offset`` on."""
        start, size = self._place(name)
        check_range(self._source.path, name, size, offset, into.nbytes)
        if into.nbytes:
            self._source.readinto(start + offset, into)

    def extent(self, name: str) -> Extent | None:
        """Say where the bytes lie; always somewhere in this format."""
        return self._source.extent(*self._place(name))

    def check_unchanged(self) -> None:
        """Raise IntegrityError if the file was written to since it was opened."""
        self._source.check_unchanged()

    def close(self) -> None:
        """Give the handle back."""
        self._source.close()

    def _place(self, name: str) -> tuple[int, int]:
        try:
            return self.data_offset + self._begins[name], self.specs[name].nbytes
        except KeyError:
            raise NotFoundError(f"{self._source.path}: has no tensor {name!r}.") from None


TITLE = "safetensors"
SUFFIXES = (".safetensors", ".sft")


class _Format:
    title = TITLE
    suffixes = SUFFIXES
    source = "https://github.com/huggingface/safetensors (0.8, src/tensor.rs)"

    def sniff(self, head: bytes) -> bool:
        """A length and the brace that opens the header (a BOM or space before it is a fault)."""
        if len(head) <= LENGTH or int.from_bytes(head[:LENGTH], "little") >> 40:
            return False
        return head[LENGTH:].removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{"

    def sniff_folder(self, names: frozenset[str]) -> bool:
        """Never: this format is one file."""
        return False

    def open(self, path: Path, *, salvage: bool = False) -> Safetensors:
        """Read the header."""
        with Source(path) as source:
            return Safetensors(source)

    def create(self, path: Path) -> PlannedSink:
        """Return a sink that keeps the order of the tensors and of the metadata."""
        return PlannedSink(path, lambda specs, metadata: plan(specs, metadata, path))


PLUGIN = _Format()
