"""Where else the values of an object are: in a plain file, in another pack, or in what a recipe computes.

Whatever is found counts only if it has the digest that was asked for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from blake3 import blake3

from memcard.core.tensors import Spec
from memcard.errors import IntegrityError, MemcardError
from memcard.jobs._stored import StoredCheckpoint, segments
from memcard.jobs._verify_packs import Shelf
from memcard.store import manifest as manifests
from memcard.store import packed as records
from memcard.store.layout import Layout
from memcard.store.manifest import Manifest
from memcard.store.objects import all_packs
from memcard.store.pack import BaseReader, Pack
from memcard.store.whereabouts import copies

Read = Callable[[int, memoryview], None]

_CHUNK = 4 << 20


@dataclass(frozen=True, slots=True)
class Rescue:
    """Values that were found again.

    Attributes:
        size: in bytes.
        item: bytes of a value, 1 for a skeleton.
        skeleton: whether it is the bytes of a file around its tensors.
        read: gives them.
        origin: where they were found, for people.
    """

    size: int
    item: int
    skeleton: bool
    read: Read
    origin: str


@dataclass(frozen=True, slots=True)
class _Place:
    """One place in a manifest where an object is: of a tensor, or the skeleton of a file."""

    manifest: str
    file: int
    tensor: str | None


class Sources:
    """Everything a library could restore some objects from. Close it at the end."""

    def __init__(self, home: Layout, wanted: Iterable[str]) -> None:
        """Look through all manifests for what is wanted; nothing else is kept of them.

        Args:
            home: the library.
            wanted: keys of objects.
        """
        self.home, self._wanted = home, frozenset(wanted)
        self._stack = ExitStack()
        self._manifests: dict[str, Manifest] = {}
        self._places: dict[str, list[_Place]] = defaultdict(list)
        for name in manifests.every(home):
            with suppress(MemcardError):  # doctor tells of it
                self._know(name, manifests.get(home, name))
        self._shelf = Shelf(home, all_packs(home))
        self._stack.callback(self._shelf.close)

    def _know(self, name: str, manifest: Manifest) -> None:
        found: list[tuple[str, _Place]] = []
        for tensor_name, tensor in manifest.tensors.items():
            if tensor.blake3 in self._wanted and tensor.at is not None:
                found.append((tensor.blake3 or "", _Place(name, tensor.file, tensor_name)))
        for number, file in enumerate(manifest.files):
            if file.skeleton.blake3 in self._wanted:
                found.append((file.skeleton.blake3, _Place(name, number, None)))
        for key, place in found:
            self._manifests[name] = manifest
            self._places[key].append(place)

    def find(self, key: str) -> Rescue | None:
        """Return values with this digest, wherever they are; None if they are nowhere."""
        for rescue in self._candidates(key):
            with suppress(MemcardError, OSError):
                if digest_of(rescue) == key:
                    return rescue
        return None

    def _candidates(self, key: str) -> Iterator[Rescue]:
        places = self._places.get(key, [])
        for wanted in places:
            yield from self._plain(wanted)
        for pack in self._shelf.holders(key):
            one = pack.objects[key]
            if one.kind != "residual":
                read = partial(_from_pack, pack, key, self._shelf.read)
                skeleton = one.kind == "skeleton"
                yield Rescue(one.size, one.item, skeleton, read, f"pack {pack.name[:12]}")
        for wanted in places:
            yield from self._computed(wanted)

    def _plain(self, wanted: _Place) -> Iterator[Rescue]:
        manifest = self._manifests[wanted.manifest]
        for copy in copies(self.home, manifest.files[wanted.file].sha256):
            if copy.fitness == "ok":
                with suppress(MemcardError, OSError):
                    yield _in_file(manifest, wanted, self._opened(copy.path), str(copy.path))

    def _opened(self, path: Path) -> Read:
        file = self._stack.enter_context(path.open("rb", buffering=0))

        def read(at: int, out: memoryview) -> None:
            file.seek(at)
            done = 0
            while done < len(out):
                n = file.readinto(out[done:])
                if not n:
                    raise IntegrityError(f"{path}: became shorter while it was read.")
                done += n

        return read

    def _computed(self, wanted: _Place) -> Iterator[Rescue]:
        """Yield what a recipe gives for a tensor of another packed checkpoint."""
        with suppress(MemcardError, OSError):
            record = records.get(self.home, wanted.manifest)
            if record is None or record.recipe is None or wanted.tensor is None:
                return
            name = wanted.tensor
            stored = StoredCheckpoint(self.home, wanted.manifest, record)
            self._stack.callback(stored.close)
            spec = self._manifests[wanted.manifest].tensors[name].spec
            yield Rescue(
                spec.nbytes,
                item_of(spec),
                skeleton=False,
                read=lambda at, out: stored.readinto(name, out, at),
                origin=f"the recipe {record.title}",
            )

    def close(self) -> None:
        """Close all files."""
        self._stack.close()


def _from_pack(pack: Pack, key: str, bases: BaseReader, at: int, out: memoryview) -> None:
    pack.read(key, at, out, bases)


def digest_of(rescue: Rescue) -> str:
    """Return the BLAKE3 of values, read in pieces."""
    whole = blake3()
    for at in range(0, rescue.size, _CHUNK):
        part = memoryview(bytearray(min(_CHUNK, rescue.size - at)))
        rescue.read(at, part)
        whole.update(part)
    return whole.hexdigest()


def item_of(spec: Spec) -> int:
    """Return the bytes of a value as codecs see it."""
    size = spec.dtype.block_bytes
    return size if spec.dtype.block == 1 and size in (1, 2, 4, 8) else 1


def _in_file(manifest: Manifest, wanted: _Place, read: Read, origin: str) -> Rescue:
    if wanted.tensor is not None:
        tensor = manifest.tensors[wanted.tensor]
        start = tensor.at or 0
        return Rescue(
            tensor.spec.nbytes,
            item_of(tensor.spec),
            skeleton=False,
            read=lambda at, out: read(start + at, out),
            origin=origin,
        )
    gaps = [s for s in segments(manifest, wanted.file) if s.key is None]

    def between(at: int, out: memoryview) -> None:
        done = 0
        for gap in gaps:
            skip = at + done - gap.within
            if 0 <= skip < gap.size and done < len(out):
                size = min(gap.size - skip, len(out) - done)
                read(gap.start + skip, out[done : done + size])
                done += size

    size = manifest.files[wanted.file].skeleton.size
    return Rescue(size, 1, skeleton=True, read=between, origin=origin)
