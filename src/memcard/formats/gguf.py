"""GGUF: the container of llama.cpp, stable-diffusion.cpp and ComfyUI-GGUF, mostly of quantised weights.

Versions 1 to 3, little-endian. Only read: blocks come out as they are; ``memcard.ops.dequantize``
makes numbers of them.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from memcard.core.checkpoint import Extent
from memcard.core.tensors import Specs
from memcard.errors import NotFoundError, UnsupportedError
from memcard.formats._gguf_header import MAGIC, Header
from memcard.formats._source import Source, check_range, suffix_note


class Gguf:
    """An open GGUF file; only its header was read."""

    format = "gguf"

    def __init__(self, source: Source) -> None:
        self._source = source
        header = Header(source)
        self.version = header.version
        self.data_offset = header.data_offset
        self.specs: Specs = header.specs
        self.metadata: Mapping[str, str] = header.metadata
        self._begins = header.begins
        self.notes: Sequence[str] = (
            *suffix_note(source.path, TITLE, SUFFIXES),
            *_quantized_note(self.specs),
            *_split_note(self.metadata),
        )

    def read(self, name: str) -> memoryview:
        """Return one tensor's bytes, read-only; quantised ones as blocks."""
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


def _quantized_note(specs: Specs) -> tuple[str, ...]:
    kinds = Counter(spec.dtype.name for spec in specs.values() if spec.dtype.quantized)
    if not kinds:
        return ()
    listed = ", ".join(f"{count} {name}" for name, count in kinds.most_common())
    return (f"{kinds.total()} tensors are quantised ({listed}); --dtype makes numbers of them.",)


def _split_note(metadata: Mapping[str, str]) -> tuple[str, ...]:
    number, count = metadata.get("split.no", ""), metadata.get("split.count", "")
    if not (number.isdecimal() and count.isdecimal()) or len(count) > 6 or int(count) < 2:
        return ()
    part = f"This is part {int(number[:6]) + 1} of {count}; the other parts hold the other tensors."
    return (f"{part} llama.cpp's 'llama-gguf-split --merge' puts them together.",)


TITLE = "GGUF"
SUFFIXES = (".gguf",)


class _Format:
    title = TITLE
    suffixes = SUFFIXES
    source = "https://github.com/ggml-org/ggml (docs/gguf.md)"

    def sniff(self, head: bytes) -> bool:
        """Four letters."""
        return head.startswith(MAGIC)

    def sniff_folder(self, names: frozenset[str]) -> bool:
        """Never: this format is one file."""
        return False

    def open(self, path: Path, *, salvage: bool = False) -> Gguf:
        """Read the header."""
        with Source(path) as source:
            return Gguf(source)

    def create(self, path: Path) -> NoReturn:
        """Refuse: llama.cpp's tools quantise better than we could.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError(
            f"{path}: memcard reads GGUF and does not write it. End the name in .safetensors; "
            "ComfyUI-GGUF's tools make GGUF files from that."
        )


PLUGIN = _Format()
