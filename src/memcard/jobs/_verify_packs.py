"""Read packs and what is computed from them, object by object, and tell what of it is damaged.

Every object is decoded and compared with its key, which is the digest of its values; what a recipe gives is
compared with the digests in the manifest. So a fault is found wherever it comes from: the disk, a codec, or
another version of a library that computes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

from blake3 import blake3

from memcard.errors import MemcardError
from memcard.jobs._stored import StoredCheckpoint
from memcard.store import manifest as manifests
from memcard.store import packed as records
from memcard.store._pack_layout import PackedObject
from memcard.store.layout import Layout
from memcard.store.objects import pack_path
from memcard.store.pack import BaseReader, Pack, reader_of
from memcard.store.packed import Packed

PackState: TypeAlias = Literal["ok", "damaged", "unreadable", "missing"]
Heard: TypeAlias = Callable[[int], None]

_CHUNK = 4 << 20
_KEPT = 64  # manifests


@dataclass(frozen=True, slots=True)
class CheckedPack:
    """One pack, and what of it is damaged.

    Attributes:
        name: BLAKE3 of the file.
        path: of it.
        state: ``damaged``: in some objects, or only outside of them; ``unreadable`` as a whole.
        objects: keys of those that do not decode to what they are named by.
        needed_by: names of the checkpoints that need these, or the pack if it is lost as a whole.
        read: bytes that were read.
        why: sentences about it.
    """

    name: str
    path: Path
    state: PackState
    objects: tuple[str, ...] = ()
    needed_by: tuple[str, ...] = ()
    read: int = 0
    why: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        return {
            "pack": self.name,
            "path": str(self.path),
            "state": self.state,
            "objects": list(self.objects),
            "needed_by": list(self.needed_by),
            "read": self.read,
            "why": list(self.why),
        }


class Shelf:
    """The packs of some records, open side by side; those that cannot be opened are remembered."""

    def __init__(self, home: Layout, names: Iterable[str]) -> None:
        self.home = home
        self.packs: dict[str, Pack] = {}
        self.broken: dict[str, tuple[PackState, str]] = {}
        # pack and key to what is wrong with the object, of those that were looked at
        self.bad: dict[tuple[str, str], str] = {}
        for name in dict.fromkeys(names):
            self._open(name)
        self.read: BaseReader = reader_of(self.find, lambda key, offset, out: False)

    def _open(self, name: str) -> None:
        path = pack_path(self.home, name)
        try:
            self.packs[name] = Pack.open(path)
        except FileNotFoundError:
            self.broken[name] = "missing", f"{path}: the library lacks this pack."
        except MemcardError as error:
            self.broken[name] = "unreadable", str(error)
        except OSError as error:
            self.broken[name] = "unreadable", f"{path}: {error.strerror or error}."

    def holders(self, key: str, among: Iterable[str] | None = None) -> Iterator[Pack]:
        """Yield the packs with an object; those that store its values come first.

        Args:
            key: of the object.
            among: names of packs; None for all.
        """
        names = self.packs if among is None else among
        found = [p for name in names if (p := self.packs.get(name)) and key in p.objects]
        yield from sorted(found, key=lambda pack: pack.objects[key].kind == "residual")

    def find(self, key: str, among: Iterable[str] | None = None) -> Pack | None:
        """Return the pack an object is read from; None if there is none."""
        return next(self.holders(key, among), None)

    def is_bad(self, key: str, among: Iterable[str] | None = None) -> bool:
        """Whether an object was found damaged in the pack it is read from."""
        pack = self.find(key, among)
        return pack is not None and (pack.name, key) in self.bad

    def chain(self, key: str, among: Iterable[str] | None = None) -> tuple[str, ...]:
        """Return a key and those of its bases, as far as they are there."""
        found: list[str] = []
        at: str | None = key
        while at is not None and at not in found:
            found.append(at)
            pack = self.find(at, among)
            one = None if pack is None else pack.objects[at]
            at = None if one is None or one.kind == "residual" else one.base
        return tuple(found)

    def check(self, pack: Pack, one: PackedObject, heard: Heard) -> str | None:
        """Decode an object; return what is wrong with it. Residuals are checked with their recipe."""
        if one.kind == "residual":
            return None
        whole, buffer = blake3(), memoryview(bytearray(min(one.size, one.block_bytes)))
        try:
            for at in range(0, one.size, max(one.block_bytes, 1)):
                part = buffer[: min(one.block_bytes, one.size - at)]
                pack.read(one.key, at, part, self.read)
                whole.update(part)
                heard(len(part))
        except MemcardError as error:
            return str(error)
        except OSError as error:
            return f"{pack.path}: {error.strerror or error}."
        if whole.hexdigest() != one.key:
            return f"{pack.path}: object {one.key} decodes to {whole.hexdigest()}."
        return None

    def close(self) -> None:
        """Close the packs."""
        for pack in self.packs.values():
            pack.close()


class PackWork:
    """One look at the packs of some checkpoints. Close it at the end."""

    def __init__(
        self,
        home: Layout,
        names: Mapping[str, str],
        *,
        sample: float = 1.0,
        chance: random.Random | None = None,
        heard: Heard = lambda done: None,
        known: Callable[[str], bool] = lambda key: False,
    ) -> None:
        """Find what there is to read.

        Args:
            home: the library.
            names: manifest to the name of its checkpoint.
            sample: share of the bytes to read, above 0 and at most 1: whole objects are chosen.
            chance: of the choice.
            heard: is told of bytes that were read.
            known: whether a pack or record was found sound not long ago, so that it is passed over.
        """
        self.home, self._names, self._sample = home, dict(names), sample
        self._chance, self._heard, self._known = chance or random.Random(0), heard, known  # noqa: S311
        self.faults: list[str] = []
        self.records: dict[str, Packed] = {}
        # A library may have more manifests than fit into memory.
        self.manifest = lru_cache(_KEPT)(lambda name: manifests.get(home, name))
        for name in names:
            self._take(name)
        self.shelf = Shelf(home, (p for record in self.records.values() for p in record.packs))
        self.checked: dict[str, CheckedPack] = {}
        self.wrong: dict[str, tuple[str, ...]] = {}  # manifest to tensors a recipe gives wrongly

    def _take(self, first: str) -> None:
        """Add a record, and those of the sources of its recipe."""
        waiting = [first]
        while waiting:
            manifest_id = waiting.pop()
            if manifest_id in self.records:
                continue
            try:
                record = records.get(self.home, manifest_id)
                if record is None:
                    continue
                self.manifest(manifest_id)
            except MemcardError as error:
                self.faults.append(str(error))
                continue
            self.records[manifest_id] = record
            waiting += record.sources

    @property
    def total(self) -> int:
        """Bytes of the packs."""
        return sum(_size(pack.path) for pack in self.shelf.packs.values())

    def run(self) -> tuple[CheckedPack, ...]:
        """Read the packs, then what the recipes compute."""
        for name, pack in self.shelf.packs.items():
            if not self._known(f"pack {name}"):
                self._pack(name, pack)
        for manifest_id in in_order(self.records):
            record = self.records[manifest_id]
            if record.recipe is None or self._known(record_key(record)):
                continue
            if all(self.sound(source) for source in record.sources):  # else that is what is wrong
                self._recipe(manifest_id, record)
        for name, (state, why) in self.shelf.broken.items():
            path = pack_path(self.home, name)
            self.checked[name] = CheckedPack(name, path, state, why=(why,))
        if any(found.state != "ok" for found in self.checked.values()):
            self._blame()
        return tuple(self.checked.values())

    def _blame(self) -> None:
        """Note which checkpoints need what is damaged."""
        needed: dict[str, set[str]] = {}
        for manifest_id in in_order(self.records):
            record = self.records[manifest_id]
            broken = [name for name in record.packs if name in self.shelf.broken]
            bad = [k for k in self.keys(manifest_id) if self.shelf.is_bad(k, record.packs)]
            for key in (*broken, *bad):
                needed.setdefault(key, set()).add(manifest_id)
            for users in needed.values():  # what is computed from it needs it too
                if users.intersection(record.sources):
                    users.add(manifest_id)
        for name, found in self.checked.items():
            ids = {one for key in (name, *found.objects) for one in needed.get(key, ())}
            self.checked[name] = replace(found, needed_by=tuple(sorted(map(self.name, ids))))

    def _pack(self, name: str, pack: Pack) -> None:
        why, keys, read = list(pack.faults), list[str](), 0
        if self._sample == 1:
            found, read = _file_digest(pack.path)
            if found != name:
                why.append(f"{pack.path}: the file's digest is {found}, not its name.")
        for one in self._chosen(pack):
            fault = self.shelf.check(pack, one, self._heard)
            read += one.stored if self._sample < 1 else 0  # else it was read for the file's digest
            if fault is not None and not self._base_is_bad(one):
                keys.append(one.key)
                why.append(fault)
                self.shelf.bad[name, one.key] = fault
        state: PackState = "damaged" if why else "ok"
        self.checked[name] = CheckedPack(name, pack.path, state, tuple(keys), (), read, tuple(why))

    def _base_is_bad(self, one: PackedObject) -> bool:
        """Whether an object cannot be decoded because a base of it cannot: the fault is that one's."""
        for key in self.shelf.chain(one.key)[1:]:
            pack = self.shelf.find(key)
            if pack is None or (pack.name, key) in self.shelf.bad:
                return True
            if self.shelf.check(pack, pack.objects[key], lambda done: None) is not None:
                return True
        return False

    def _chosen(self, pack: Pack) -> list[PackedObject]:
        every = list(pack.objects.values())
        if self._sample == 1:
            return every
        order, left, chosen = list(every), self._sample * pack_bytes(every), set[str]()
        self._chance.shuffle(order)
        while order and left > 0:
            one = order.pop()
            chosen.add(one.key)
            left -= one.stored
        return [one for one in every if one.key in chosen]

    def _recipe(self, manifest_id: str, record: Packed) -> None:
        """Compare what the recipe of a checkpoint gives with its digests."""
        manifest, wrong = self.manifest(manifest_id), list[str]()
        computed = [
            (name, tensor.blake3, tensor.spec.nbytes)
            for name, tensor in manifest.tensors.items()
            if tensor.blake3 and tensor.spec.nbytes and self._is_computed(tensor.blake3, record)
        ]
        if self._sample < 1:
            computed = [c for c in computed if self._chance.random() < self._sample]
        # Without what is lost the rest shows what the recipe still gives.
        there = tuple(name for name in record.packs if name in self.shelf.packs)
        try:
            stored = StoredCheckpoint(self.home, manifest_id, replace(record, packs=there))
        except MemcardError as error:
            self.faults.append(str(error))
            self.wrong[manifest_id] = tuple(name for name, _, _ in computed)
            return
        try:
            for name, digest, size in computed:
                if _tensor_digest(stored, name, size, self._heard) != digest:
                    wrong.append(name)
        finally:
            stored.close()
        if wrong:
            self.wrong[manifest_id] = tuple(wrong)
            few = ", ".join(wrong[:3]) + ("…" if len(wrong) > 3 else "")
            self.faults.append(
                f"{self.name(manifest_id)}: its recipe ({record.title}) gives other values than were "
                f"packed for {len(wrong)} tensors ({few}). `memcard repair` looks for a copy."
            )

    def _is_computed(self, key: str, record: Packed) -> bool:
        pack = self.shelf.find(key, record.packs)
        return pack is None or pack.objects[key].kind == "residual"

    def name(self, manifest_id: str) -> str:
        """Return the name of a checkpoint, or the first digits of its manifest."""
        return self._names.get(manifest_id, manifest_id[:12])

    def keys(self, manifest_id: str) -> tuple[str, ...]:
        """Return the keys of all a packed checkpoint consists of, and of the bases of these."""
        manifest, packs = self.manifest(manifest_id), self.records[manifest_id].packs
        found: dict[str, None] = {}
        for tensor in manifest.tensors.values():
            if tensor.blake3 and tensor.spec.nbytes:
                found |= dict.fromkeys(self.shelf.chain(tensor.blake3, packs))
        for file in manifest.files:
            if not file.skeleton.stored and file.skeleton.size:
                found |= dict.fromkeys(self.shelf.chain(file.skeleton.blake3, packs))
        return tuple(found)

    def lost_keys(self, manifest_id: str) -> tuple[str, ...]:
        """Return the keys a packed checkpoint cannot be read without, and which are damaged or gone."""
        record, manifest = self.records[manifest_id], self.manifest(manifest_id)
        wrong = {manifest.tensors[name].blake3 for name in self.wrong.get(manifest_id, ())}
        computed = {tensor.blake3 for tensor in manifest.tensors.values() if record.recipe}
        return tuple(
            key
            for key in self.keys(manifest_id)
            if key in wrong
            or self.shelf.is_bad(key, record.packs)
            or (key not in computed and self.shelf.find(key, record.packs) is None)
        )

    def sound(self, manifest_id: str, above: tuple[str, ...] = ()) -> bool:
        """Whether a checkpoint can be read from its packs, as far as they were looked at.

        One that is computed from itself, ``above`` it, cannot.
        """
        record, below = self.records.get(manifest_id), (*above, manifest_id)
        if record is None or manifest_id in above:
            return False
        if any(not self.sound(source, below) for source in record.sources):
            return False
        return not self.lost_keys(manifest_id)

    def close(self) -> None:
        """Close the packs."""
        self.shelf.close()


def in_order(found: Mapping[str, Packed]) -> Iterator[str]:
    """Yield manifests, the sources of recipes before what is computed from them; forged circles end."""
    begun, done = set[str](), set[str]()
    for first in found:
        waiting = [first]
        while waiting:
            name = waiting[-1]
            if name in begun or name not in found:
                waiting.pop()
                if name in found and name not in done:
                    done.add(name)
                    yield name
            else:
                begun.add(name)
                waiting += [source for source in found[name].sources if source not in begun]


def record_key(record: Packed) -> str:
    """Return by what it is remembered that a record was looked at."""
    return f"record {blake3(record.to_bytes()).hexdigest()}"


def pack_bytes(objects: Iterable[PackedObject]) -> int:
    """Return what some objects take in their packs."""
    return sum(one.stored for one in objects)


def _file_digest(path: Path) -> tuple[str, int]:
    whole, size = blake3(), 0
    with path.open("rb", buffering=0) as file:
        while part := file.read(_CHUNK):
            whole.update(part)
            size += len(part)
    return whole.hexdigest(), size


def _tensor_digest(stored: StoredCheckpoint, name: str, size: int, heard: Heard) -> str:
    """Return the digest of a tensor; "" if it cannot be read."""
    whole = blake3()
    try:
        for at in range(0, size, _CHUNK):
            part = memoryview(bytearray(min(_CHUNK, size - at)))
            stored.readinto(name, part, at)
            whole.update(part)
            heard(len(part))
    except (MemcardError, OSError):
        return ""
    return whole.hexdigest()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
