"""safetensors: a JSON header and plain tensor bytes.

Stricter than the reference reader in one point: a key that appears twice is refused (the reference
keeps the last, though its own README forbids duplicates).

Source: safetensors 0.8 ``src/tensor.rs``; https://github.com/huggingface/safetensors
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from memcard.formats._flat import FlatFile
from memcard.formats._planned import PlannedSink
from memcard.formats._safetensors_header import LENGTH, Header, plan
from memcard.formats._source import Source, suffix_note


class Safetensors(FlatFile):
    """An open safetensors file; only its header was read."""

    format = "safetensors"

    def __init__(self, source: Source) -> None:
        header = Header(source)
        super().__init__(source, header.specs, header.metadata, header.data_offset, header.begins)
        self.notes: Sequence[str] = suffix_note(source.path, TITLE, SUFFIXES)


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
