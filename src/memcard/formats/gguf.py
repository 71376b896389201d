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

from memcard.core.tensors import Specs
from memcard.errors import UnsupportedError
from memcard.formats._flat import FlatFile
from memcard.formats._gguf_header import MAGIC, Header
from memcard.formats._source import Source, suffix_note


class Gguf(FlatFile):
    """An open GGUF file; only its header was read."""

    format = "gguf"

    def __init__(self, source: Source) -> None:
        header = Header(source)
        super().__init__(source, header.specs, header.metadata, header.data_offset, header.begins)
        self.version = header.version
        self.notes: Sequence[str] = (
            *suffix_note(source.path, TITLE, SUFFIXES),
            *_quantized_note(self.specs),
            *_split_note(self.metadata),
        )


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
