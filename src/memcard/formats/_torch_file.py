"""Tensors that are strided views on storages: what torch's two file formats have in common."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import ClassVar

from memcard.core.checkpoint import Extent
from memcard.core.limits import DEFAULT, Limits
from memcard.core.tensors import Spec, Specs
from memcard.errors import CorruptError, NotFoundError
from memcard.formats._inflate import Inflated
from memcard.formats._source import Source, check_range
from memcard.formats._strided import Bytes, Plain, gather
from memcard.unpickle.nodes import TensorView
from memcard.unpickle.torch_dtypes import packed_shape
from memcard.unpickle.tree import Contents

_OPEN_MEMBERS = 8  # compressed ones, 0.8 MB each at most; one for each thread


@dataclass(frozen=True, slots=True)
class Place:
    """Where the bytes of a storage lie in the file."""

    offset: int
    size: int
    packed: int | None = None  # bytes in the file if they are compressed


class TorchFile:
    """See ``memcard.core.checkpoint.Checkpoint``; its program was read, no tensor.

    Attributes:
        training_state: names of tensors that are not part of the model.
        other: top-level keys without tensors.
        versions: ``_metadata`` of the state dict, module name to its attributes; often empty.
    """

    format: ClassVar[str]

    def __init__(
        self,
        source: Source,
        contents: Contents,
        places: Mapping[str, Place],
        notes: Sequence[str],
        *,
        swap: bool = False,
    ) -> None:
        self._source = source
        self._views = contents.tensors
        self._places = places
        self._swap = swap
        self._inflated: OrderedDict[str, Inflated] = OrderedDict()
        self._lock = Lock()
        self.specs: Specs = {
            name: Spec(view.dtype, packed_shape(view.dtype, view.shape))
            for name, view in self._views.items()
        }
        self._check_total(DEFAULT)
        self.metadata: Mapping[str, str] = contents.metadata
        self.training_state: Sequence[str] = tuple(contents.training)
        self.other: Sequence[str] = tuple(contents.other)
        self.versions = contents.versions
        self.notes: Sequence[str] = tuple(notes)

    def read(self, name: str) -> memoryview:
        """Return one tensor's bytes, read-only."""
        view = self._view(name)
        if place := self._as_stored(view):
            return self._source.view(place.offset + view.offset, view.nbytes)
        buffer = memoryview(bytearray(view.nbytes))
        self.readinto(name, buffer)
        return buffer.toreadonly()

    def readinto(self, name: str, into: memoryview, offset: int = 0) -> None:
        """Fill ``into`` with the bytes of one tensor from ``offset`` on."""
        view = self._view(name)
        check_range(self._source.path, name, view.nbytes, offset, into.nbytes)
        if not into.nbytes:
            return
        if view.as_stored and not self._swap:
            self._bytes(view).readinto(view.offset + offset, into)
        else:
            gather(self._bytes(view), view, swap=self._swap, into=into.cast("B"), offset=offset)

    def extent(self, name: str) -> Extent | None:
        """Say where the bytes lie, unless they have to be unpacked, gathered or turned around."""
        view = self._view(name)
        place = self._as_stored(view)
        return self._source.extent(place.offset + view.offset, view.nbytes) if place else None

    def check_unchanged(self) -> None:
        """Raise IntegrityError if the file was written to since it was opened."""
        self._source.check_unchanged()

    def close(self) -> None:
        """Give the handle back."""
        self._source.close()

    def _check_total(self, limits: Limits) -> None:
        """Refuse a small file whose tensors share their bytes so often that reading all takes for ever."""
        total = sum(spec.nbytes for spec in self.specs.values())
        most = max(limits.listed_bytes, limits.listed_ratio * self._source.size)
        if total > most:
            raise CorruptError(
                f"{self._source.path}: its {len(self.specs)} tensors have {total} bytes together, by sharing "
                f"them; a file of {self._source.size} bytes may list {most}. It was made to fill "
                "memory and disks; get it from another source."
            )

    def _view(self, name: str) -> TensorView:
        try:
            return self._views[name]
        except KeyError:
            raise NotFoundError(f"{self._source.path}: has no tensor {name!r}.") from None

    def _as_stored(self, view: TensorView) -> Place | None:
        place = self._places[view.storage.key]
        return place if place.packed is None and view.as_stored and not self._swap else None

    def _bytes(self, view: TensorView) -> Bytes:
        key = view.storage.key
        place = self._places[key]
        if place.packed is None:
            return Plain(self._source, place.offset)
        with self._lock:
            found = self._inflated.pop(key, None)
            if found is None:
                found = Inflated(self._source, key, place.offset, place.packed, place.size)
            self._inflated[key] = found
            if len(self._inflated) > _OPEN_MEMBERS:
                self._inflated.popitem(last=False)
            return found
