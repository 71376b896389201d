"""A file whose header says where each tensor lies, whole and as it is: safetensors and GGUF."""

from __future__ import annotations

from collections.abc import Mapping

from memcard.core.checkpoint import Extent
from memcard.core.tensors import Specs
from memcard.errors import NotFoundError
from memcard.formats._source import Source, check_range


class FlatFile:
    """An open file; only its header was read.

    Attributes:
        specs: name to dtype and shape, in file order.
        metadata: free text of the header.
        data_offset: where the tensors begin in the file, in bytes.
    """

    def __init__(
        self,
        source: Source,
        specs: Specs,
        metadata: Mapping[str, str],
        data_offset: int,
        begins: Mapping[str, int],
    ) -> None:
        self.specs: Specs = specs
        self.metadata: Mapping[str, str] = metadata
        self.data_offset = data_offset
        self._source, self._begins = source, begins

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
        """Say where the bytes lie; always somewhere in such a file."""
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
