"""A packed checkpoint, read tensor by tensor without a plain file of it."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache

from blake3 import blake3

from memcard.core.checkpoint import Checkpoint, Extent
from memcard.core.identity import CONTENT, Place, Supply, supply
from memcard.core.tensors import Specs
from memcard.errors import CorruptError, IntegrityError, NotFoundError
from memcard.jobs import _training_path
from memcard.ops import OPS
from memcard.recipes.execute import evaluate
from memcard.recipes.text import from_document
from memcard.store import manifest as manifests
from memcard.store import packed as records
from memcard.store.layout import Layout
from memcard.store.manifest import File, Manifest, Skeleton
from memcard.store.objects import Objects
from memcard.store.pack import keeping, unchecked
from memcard.store.packed import Packed, computed_key
from memcard.store.survey import get_bones

_DEPTH = 2  # recipes on recipes
_PATHS = 4  # saves of a training each foretold from the one before, under those recipes
_PIECE = 4 << 20


def keeping_for(made: Checkpoint) -> AbstractContextManager[None]:
    """Return what to compute a recipe in; a training path keeps what it needs by itself, and is short of memory."""
    return nullcontext() if isinstance(made, _training_path.PathCheckpoint) else keeping()


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
    if within + max(file.size - at, 0) != file.skeleton.size:
        raise CorruptError(
            f"{file.name or file.sha256}: its manifest has a skeleton of {file.skeleton.size} bytes, which "
            "does not fill what its tensors leave."
        )


class StoredCheckpoint:
    """See ``memcard.core.checkpoint.Checkpoint``. Every block is checked before it is handed on.

    What a recipe gives is as exact as when it was packed, where every tensor was compared with its digest.
    """

    def __init__(
        self,
        layout: Layout,
        manifest_id: str,
        packed: Packed,
        depth: int = 0,
        objects: Objects | None = None,
        manifest: Manifest | None = None,
    ) -> None:
        """Open the packs.

        Args:
            layout: of the library.
            manifest_id: of the checkpoint.
            packed: its record.
            depth: of the recipe that asks for it; 0: nobody's.
            objects: the packs, if they are open already; they stay open.
            manifest: if it was read already.

        Raises:
            NotFoundError: a pack or a source of the recipe is missing.
            CorruptError: what is stored contradicts itself.
        """
        self.manifest: Manifest = manifest or manifests.get(layout, manifest_id)
        self.format: str = self.manifest.format
        self.specs: Specs = self.manifest.specs
        self.metadata: Mapping[str, str] = dict(self.manifest.metadata)
        self.notes: Sequence[str] = tuple(self.manifest.notes)
        self.sha256 = self.manifest.sha256
        self._id, self._layout = manifest_id, layout
        self._mine = objects is None
        self._objects = Objects(layout, packed.packs) if objects is None else objects
        self._names: dict[str, str] = {}
        try:
            self._recipe = self._computed(packed, depth)
        except BaseException:
            if self._mine:
                self._objects.close()
            raise
        if self._recipe is not None:
            self._names = {computed_key(manifest_id, n): n for n in self.manifest.tensors}
        self._read = self._objects.reader(self._compute)
        self._files: dict[int, tuple[Segment, ...]] = {}
        self._supply: Supply | None = None

    def read(self, name: str) -> memoryview:
        """Return one tensor."""
        size, key = self._spec_size(name), self.manifest.tensors[name].blake3
        stored = None if key is None else self._objects.get(key)
        if stored is not None and stored.size != size:  # before memory is taken for it
            raise CorruptError(f"{name!r}: has {size} bytes, but what is stored has {stored.size}.")
        whole = memoryview(bytearray(size))
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
        done, found = 0, self._cut(number)
        at = bisect_right(found, offset, key=lambda s: s.start) - 1
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

    def pieces(self, number: int) -> Iterator[tuple[int, int]]:
        """Yield where to cut a file so that no block of a pack is decoded twice: offsets and sizes.

        A piece has at most 8 MiB, and as a rule no more than 4.
        """
        begin = end = 0
        for segment in self._cut(number):
            pack = None if segment.key is None else self._objects.pack_of(segment.key)
            step = _PIECE
            if pack is not None and segment.key is not None:
                step = pack.objects[segment.key].block_bytes
            for at in range(segment.start, segment.start + segment.size, step):
                size = min(step, segment.start + segment.size - at)
                if end > begin and end - begin + size > _PIECE:
                    yield begin, end - begin
                    begin = end
                end = at + size
        if end > begin:
            yield begin, end - begin

    def _cut(self, number: int) -> tuple[Segment, ...]:
        if number not in self._files:
            self._files[number] = segments(self.manifest, number)
        return self._files[number]

    def extent(self, name: str) -> Extent | None:
        """Nowhere: the bytes lie in no file as they are."""
        return None

    def identity_of(self, name: str, place: Place) -> str | None:
        """Return what a tensor is: its digest, where the manifest has it."""
        del place
        self._spec_size(name)
        key = self.manifest.tensors[name].blake3
        return f"manifest:{self._id}:{name}" if key is None else f"{CONTENT}{key}"

    def supplied_by(self, source: Supply | None) -> None:
        """Ask ``source`` for values before any pack is read; what is built on them is checked.

        A difference whose base is in memory is then read alone.
        """
        self._supply = source
        if self._recipe is not None:
            supply(self._recipe, source)

    def close(self) -> None:
        """Close the packs."""
        if self._mine:
            self._objects.close()
        if self._recipe is not None:
            self._recipe.close()

    def _spec_size(self, name: str) -> int:
        if name not in self.specs:
            raise NotFoundError(f"the checkpoint has no tensor {name!r}.")
        return self.specs[name].nbytes

    def _value(self, name: str, key: str, offset: int, into: memoryview) -> None:
        one = self._objects.get(key)
        # A difference to what another checkpoint's recipe gives cannot be read here.
        if one is not None and (one.kind != "residual" or one.base in self._names):
            self._read(key, offset, into)
        elif self._recipe is not None:
            self._made(self._recipe, name, key, offset, into)
        else:
            self._read(key, offset, into)  # says what is missing

    def _made(self, recipe: Checkpoint, name: str, key: str, offset: int, into: memoryview) -> None:
        """Compute values; of a whole tensor its digest counts, else the checks of all blocks it takes."""
        if len(into) != self.manifest.tensors[name].spec.nbytes:
            with keeping_for(recipe):
                recipe.readinto(name, into, offset)
            return
        with keeping_for(recipe), unchecked():
            recipe.readinto(name, into, offset)
        if blake3(into).hexdigest() != key:
            recipe.readinto(name, into, offset)  # the checks tell which pack is damaged
            if blake3(into).hexdigest() != key:
                raise IntegrityError(
                    f"{self._id}: the recipe it is packed as gives other values of {name!r} than it was packed "
                    "with. Its record or what it is computed from was changed; add another copy: memcard add FILE."
                )

    def _compute(self, key: str, offset: int, out: memoryview) -> bool:
        if self._supply is not None and self._supply(key, offset, out):
            return True
        name = self._names.get(key)
        if name is None or self._recipe is None:
            return False
        with keeping_for(self._recipe):
            self._recipe.readinto(name, out, offset)
        return True

    def _computed(self, packed: Packed, depth: int) -> Checkpoint | None:
        if packed.recipe is None:
            return None
        path = _training_path.MARK in packed.recipe
        if depth >= _DEPTH + (_PATHS if path else 0):
            raise CorruptError(
                f"{self._id}: recipes upon recipes upon recipes; one of them is forged."
            )
        shared = None if self._mine else self._objects

        def source(manifest: str) -> Checkpoint:
            return open_stored(self._layout, manifest, depth + 1, shared)

        if path:
            return _training_path.opened(packed.recipe, self, self.specs, source)
        return evaluate(from_document(dict(packed.recipe)), lambda leaf: source(leaf.ref), OPS)

    @property
    def foretold(self) -> Checkpoint | None:
        """What its tensors are stored as differences to, where a recipe or a training path tells that."""
        return self._recipe

    def _bones(self, number: int, offset: int, into: memoryview) -> None:
        skeleton = self.manifest.files[number].skeleton
        if skeleton.blake3 in self._objects:
            self._read(skeleton.blake3, offset, into)
        else:
            whole = bones(self._layout, skeleton.blake3, skeleton.size)
            into[:] = whole[offset : offset + len(into)]


def open_stored(
    layout: Layout,
    manifest_id: str,
    depth: int = 0,
    objects: Objects | None = None,
    manifest: Manifest | None = None,
) -> StoredCheckpoint:
    """Open a packed checkpoint; arguments as of ``StoredCheckpoint``.

    Raises:
        NotFoundError: it is not packed, or a pack is missing.
        CorruptError, IntegrityError: what is stored is damaged.
    """
    packed = records.get(layout, manifest_id)
    if packed is None:
        raise NotFoundError(
            f"{manifest_id}: is not packed, and no plain copy is at hand. Add the file again."
        )
    try:
        return StoredCheckpoint(layout, manifest_id, packed, depth, objects, manifest)
    except NotFoundError:
        # `gc` may have written its packs anew between the two reads.
        again = records.get(layout, manifest_id)
        if again is None or again == packed:
            raise
        return StoredCheckpoint(layout, manifest_id, again, depth, objects, manifest)


def decoded(
    stored: StoredCheckpoint, number: int, threads: int | None = None, *, checked: bool = True
) -> Generator[memoryview]:
    """Yield a file piece by piece, while threads decode the next ones; close the iterator at the end.

    Args:
        stored: the checkpoint.
        number: which of its files.
        threads: that decode; None: one per processor, at most 4.
        checked: False only if the caller compares the digest of the whole: blocks are not checked then.

    Yields:
        Memory that is used again as soon as the next piece is asked for.
    """
    threads = threads or min(4, os.cpu_count() or 1)
    spare = [bytearray(0) for _ in range(threads + 2)]

    def read(at: int, size: int, buffer: bytearray) -> tuple[memoryview, bytearray]:
        if len(buffer) < size:
            buffer = bytearray(size)
        part = memoryview(buffer)[:size]
        with nullcontext() if checked else unchecked():
            stored.read_file(number, at, part)
        return part, buffer

    waiting: deque[Future[tuple[memoryview, bytearray]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for at, size in stored.pieces(number):
                waiting.append(pool.submit(read, at, size, spare.pop()))
                if not spare:
                    part, buffer = waiting.popleft().result()
                    yield part
                    spare.append(buffer)
            while waiting:
                yield waiting.popleft().result()[0]
        finally:
            for one in waiting:
                one.cancel()


@lru_cache(maxsize=4)
def bones(layout: Layout, key: str, size: int) -> bytes:
    """Return a stored skeleton.

    Raises:
        NotFoundError: it is missing.
        IntegrityError, CorruptError: it is damaged.
    """
    return get_bones(layout, Skeleton(key, size, stored=True))
