"""A packed checkpoint, read tensor by tensor without a plain file of it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import zstandard
from blake3 import blake3

from memcard.core.checkpoint import Checkpoint, Extent
from memcard.core.tensors import Specs
from memcard.errors import CorruptError, IntegrityError, NotFoundError
from memcard.ops import OPS
from memcard.recipes.execute import evaluate
from memcard.recipes.nodes import Source
from memcard.recipes.text import from_document
from memcard.store import manifest as manifests
from memcard.store import packed as records
from memcard.store.layout import Layout
from memcard.store.manifest import File, Manifest
from memcard.store.objects import Objects
from memcard.store.packed import Packed, computed_key
from memcard.store.survey import MOST_SKELETON

_DEPTH = 2  # recipes on recipes


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of bytes of a file.

    Attributes:
        start, size: where it lies in the file.
        key: of the object that has these bytes; None: they are of the skeleton.
        name: of the tensor; "" for the skeleton.
        within: offset of the run in the skeleton; 0 for tensors.
    """

    start: int
    size: int
    key: str | None
    name: str
    within: int = 0


def segments(manifest: Manifest, number: int) -> tuple[Segment, ...]:
    """Cut a file into its tensors and the skeleton between them, in file order."""
    runs = {
        (tensor.at, tensor.spec.nbytes): (tensor.blake3, name)
        for name, tensor in reversed(list(manifest.tensors.items()))
        if tensor.file == number and tensor.blake3 and tensor.at is not None and tensor.spec.nbytes
    }
    return tuple(_cut(manifest.files[number], runs))


def _cut(file: File, runs: Mapping[tuple[int, int], tuple[str, str]]) -> Iterator[Segment]:
    at = within = 0
    for (start, size), (key, name) in sorted(runs.items()):
        if start < at:
            raise CorruptError(
                f"{file.name or file.sha256}: its manifest has tensors that overlap."
            )
        if start > at:
            yield Segment(at, start - at, None, "", within)
            within += start - at
        yield Segment(start, size, key, name)
        at = start + size
    if at < file.size:
        yield Segment(at, file.size - at, None, "", within)


class StoredCheckpoint:
    """See ``memcard.core.checkpoint.Checkpoint``. Every block is checked before it is handed on.

    What a recipe gives is as exact as when it was packed, where every tensor was compared with its digest.
    """

    def __init__(self, layout: Layout, manifest_id: str, packed: Packed, depth: int = 0) -> None:
        """Open the packs.

        Raises:
            NotFoundError: a pack or a source of the recipe is missing.
            CorruptError: what is stored contradicts itself.
        """
        self.manifest: Manifest = manifests.get(layout, manifest_id)
        self.format: str = self.manifest.format
        self.specs: Specs = self.manifest.specs
        self.metadata: Mapping[str, str] = dict(self.manifest.metadata)
        self.notes: Sequence[str] = tuple(self.manifest.notes)
        self.sha256 = self.manifest.sha256
        self._id, self._layout = manifest_id, layout
        self._recipe = self._computed(packed, depth)
        self._names = (
            {computed_key(manifest_id, name): name for name in self.manifest.tensors}
            if self._recipe
            else {}
        )
        self._objects = Objects(layout, packed.packs, self._compute)
        numbers = range(len(self.manifest.files))
        self._segments = [segments(self.manifest, i) for i in numbers]
        self._starts = [[s.start for s in found] for found in self._segments]

    def read(self, name: str) -> memoryview:
        """Return one tensor."""
        whole = memoryview(bytearray(self._spec_size(name)))
        self.readinto(name, whole)
        return whole.toreadonly()

    def readinto(self, name: str, into: memoryview, offset: int = 0) -> None:
        """Fill ``into`` with the bytes of one tensor that start at ``offset``."""
        self._spec_size(name)
        tensor = self.manifest.tensors[name]
        if not len(into):
            return
        if tensor.blake3 is not None:
            self._value(name, tensor.blake3, offset, into)
        elif tensor.at is not None:
            self.read_file(tensor.file, tensor.at + offset, into)
        else:
            raise NotFoundError(
                f"{name!r}: its values do not lie in the file as they are, so they cannot be read from "
                "a pack one by one. `memcard export` writes the file."
            )

    def read_file(self, number: int, offset: int, into: memoryview) -> None:
        """Fill ``into`` with the bytes of a file of the checkpoint."""
        done, found = 0, self._segments[number]
        at = bisect_right(self._starts[number], offset) - 1
        while done < len(into):
            segment = found[at]
            skip = offset + done - segment.start
            size = min(segment.size - skip, len(into) - done)
            part = into[done : done + size]
            if segment.key is None:
                self._bones(number, segment.within + skip, part)
            else:
                self._value(segment.name, segment.key, skip, part)
            done, at = done + size, at + 1

    def extent(self, name: str) -> Extent | None:
        """Nowhere: the bytes lie in no file as they are."""
        return None

    def close(self) -> None:
        """Close the packs."""
        self._objects.close()
        if self._recipe is not None:
            self._recipe.close()

    def _spec_size(self, name: str) -> int:
        if name not in self.specs:
            raise NotFoundError(f"the checkpoint has no tensor {name!r}.")
        return self.specs[name].nbytes

    def _value(self, name: str, key: str, offset: int, into: memoryview) -> None:
        if key in self._objects:
            self._objects.read(key, offset, into)
        elif self._recipe is not None:
            self._recipe.readinto(name, into, offset)
        else:
            self._objects.read(key, offset, into)  # says what is missing

    def _compute(self, key: str, offset: int, out: memoryview) -> bool:
        name = self._names.get(key)
        if name is None or self._recipe is None:
            return False
        self._recipe.readinto(name, out, offset)
        return True

    def _computed(self, packed: Packed, depth: int) -> Checkpoint | None:
        if packed.recipe is None:
            return None
        if depth >= _DEPTH:
            raise CorruptError(
                f"{self._id}: recipes upon recipes upon recipes; one of them is forged."
            )

        def source(found: Source) -> Checkpoint:
            return open_stored(self._layout, found.ref, depth + 1)

        return evaluate(from_document(dict(packed.recipe)), source, OPS)

    def _bones(self, number: int, offset: int, into: memoryview) -> None:
        skeleton = self.manifest.files[number].skeleton
        if skeleton.blake3 in self._objects:
            self._objects.read(skeleton.blake3, offset, into)
        else:
            whole = bones(self._layout, skeleton.blake3, skeleton.size)
            into[:] = whole[offset : offset + len(into)]


def open_stored(layout: Layout, manifest_id: str, depth: int = 0) -> StoredCheckpoint:
    """Open a packed checkpoint.

    Raises:
        NotFoundError: it is not packed, or a pack is missing.
        CorruptError, IntegrityError: what is stored is damaged.
    """
    packed = records.get(layout, manifest_id)
    if packed is None:
        raise NotFoundError(
            f"{manifest_id}: is not packed, and no plain copy is at hand. Add the file again."
        )
    return StoredCheckpoint(layout, manifest_id, packed, depth)


@lru_cache(maxsize=4)
def bones(layout: Layout, key: str, size: int) -> bytes:
    """Return a stored skeleton.

    Raises:
        NotFoundError: it is missing.
        IntegrityError: it is damaged.
    """
    path = layout.skeleton(key)
    remedy = "Add the checkpoint again to have it written anew."
    if size > MOST_SKELETON:
        raise CorruptError(f"{path}: {size} bytes are too many for a skeleton.")
    try:
        packed = path.read_bytes()
    except FileNotFoundError:
        raise NotFoundError(f"{path}: the library lacks this skeleton. {remedy}") from None
    try:
        raw = zstandard.ZstdDecompressor().decompress(packed, max_output_size=size)
    except zstandard.ZstdError as error:
        raise IntegrityError(f"{path}: is damaged: {error}. {remedy}") from None
    if len(raw) != size or blake3(raw).hexdigest() != key:
        raise IntegrityError(f"{path}: holds other bytes than it is named by. {remedy}")
    return raw
