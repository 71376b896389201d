"""Mend packs: what is sound of a damaged one is copied, what is not is found elsewhere, records are turned.

A record names a new pack only after its checkpoint was read back whole through it. A damaged pack is put into
the trash when no record names it any more. What is found elsewhere is stored as it was before, as a difference
or a residual; then a lost pack mostly comes out with its old name, and takes the place of what is left of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from memcard.errors import MemcardError
from memcard.jobs._repair_bases import New, Stand, Stands
from memcard.jobs._repair_sources import Rescue, Sources
from memcard.jobs._stored import StoredCheckpoint
from memcard.jobs._verify_packs import CheckedPack, PackWork, in_order
from memcard.store import manifest as manifests
from memcard.store import packed as records
from memcard.store import trash
from memcard.store._pack_layout import Kind, PackedObject
from memcard.store.layout import Layout
from memcard.store.objects import pack_path
from memcard.store.pack import Pack, PackWriter
from memcard.store.packed import Packed
from memcard.store.writer import Writer

_PIECE = 4 << 20
_PACK_SIZE = 256 << 20
_ROUNDS = 3  # a recipe can be mended after its sources were


@dataclass
class MendedPacks:
    """What became of the packs of a library.

    Attributes:
        objects: key of each object that was restored, to where it was found.
        nbytes: size of these.
        broken: the damaged packs.
        new: names of the packs that were written.
        exact: names of the checkpoints that were read back whole afterwards.
        faults: sentences about those that were not.
        entry: name of the trash entry with the damaged packs.
    """

    objects: dict[str, str] = field(default_factory=dict)
    nbytes: int = 0
    broken: list[CheckedPack] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    exact: list[str] = field(default_factory=list)
    faults: dict[str, str] = field(default_factory=dict)
    entry: str | None = None


def mend_packs(
    home: Layout,
    names: Mapping[str, str],
    *,
    dry_run: bool = False,
    heard: Callable[[int], None] = lambda done: None,
) -> MendedPacks:
    """Read the packs of some checkpoints, and mend what is damaged.

    Args:
        home: the library.
        names: manifest to the name of its checkpoint.
        dry_run: only find out what could be done.
        heard: is told of bytes that were read.
    """
    done = MendedPacks()
    for _ in range(_ROUNDS):
        work = PackWork(home, names, heard=heard)
        try:
            mended = _Round(home, work, done).run(dry_run=dry_run)
        finally:
            work.close()
        if not mended or dry_run:
            break
    return done


class _Round:
    def __init__(self, home: Layout, work: PackWork, done: MendedPacks) -> None:
        self.home, self.work, self.done = home, work, done

    def run(self, *, dry_run: bool) -> bool:
        """Mend what can be now; tell whether anything was."""
        broken = [pack for pack in self.work.run() if pack.state != "ok"]
        known = {pack.name for pack in self.done.broken}
        self.done.broken += [pack for pack in broken if pack.name not in known]
        if not broken and not self.work.wrong:
            return False
        wanted = self._wanted()
        sources = Sources(self.home, wanted)
        try:
            rescued = {key: found for key in wanted if (found := sources.find(key)) is not None}
            self._note(wanted, rescued)
            return not dry_run and self._mend(broken, rescued)
        finally:
            sources.close()

    def _mend(self, broken: list[CheckedPack], rescued: Mapping[str, Rescue]) -> bool:
        added = self._rescue_packs(rescued)
        # What holds the same objects in the same way as before has the name it had.
        again = {name for packs in added.values() for name in packs[:1]}
        copied = {p.name: p.name if p.name in again else self._copied(p) for p in broken}
        turned = self._turn(added, copied)
        self._put_away([pack.path for pack in broken])
        return turned

    def _wanted(self) -> list[str]:
        """Return what no pack has any more, of checkpoints whose sources are sound."""
        found: dict[str, None] = {}
        for manifest_id, record in self.work.records.items():
            if all(self.work.sound(source) for source in record.sources):
                found |= dict.fromkeys(self.work.lost_keys(manifest_id))
        return list(found)

    def _note(self, wanted: list[str], rescued: Mapping[str, Rescue]) -> None:
        for key, rescue in rescued.items():
            self.done.nbytes += 0 if key in self.done.objects else rescue.size
            self.done.objects[key] = rescue.origin
        gone = set(wanted) - rescued.keys()
        for manifest_id in self.work.records:
            if lost := gone & set(self.work.lost_keys(manifest_id)):
                name = self.work.name(manifest_id)
                self.done.faults[name] = (
                    f"{name}: {len(lost)} of its tensors or parts are nowhere to be found, such as "
                    f"{min(lost)[:16]}…. Add another copy of it, then run this again: memcard add FILE."
                )

    def _rescue_packs(self, rescued: Mapping[str, Rescue]) -> dict[str, tuple[str, ...]]:
        """Write what was found elsewhere into packs; return the packs that are needed to read each key."""
        placed = dict[str, tuple[str, ...]]()
        written = dict[str, New]()
        with closing(Stands(self.home, self.work)) as stands:
            left = stands.order(rescued)
            while left:
                these = dict[str, tuple[PackedObject, Stand]]()
                with PackWriter(self.home.packs) as writer:
                    while left and writer.size < _PACK_SIZE:
                        key = left.pop(0)
                        stand = stands.of(key, written)
                        these[key] = _added(writer, key, rescued[key], stand), stand
                        written[key] = these[key][0].depth, rescued[key].read
                    name = writer.commit().stem
                self.done.new.append(name)
                for key, (stored, stand) in these.items():
                    placed[key] = (name,)
                    if stored.base is not None:
                        placed[key] += (*stand.packs, *placed.get(stored.base, ()))
        return placed

    def _copied(self, broken: CheckedPack) -> str | None:
        """Copy the sound objects of a damaged pack; return the name of the copy, None if there are none."""
        old = self.work.shelf.packs.get(broken.name)
        sound = [] if old is None else [k for k in old.objects if k not in broken.objects]
        if old is None or not sound:
            return None
        with PackWriter(self.home.packs) as writer:
            for key in sound:
                old.copy(key, writer)
            name = writer.commit().stem
        if not _fit(self.home, name, self.work):
            return None
        if name != broken.name:
            self.done.new.append(name)
        return name

    def _turn(self, added: Mapping[str, tuple[str, ...]], copied: Mapping[str, str | None]) -> bool:
        """Let the records name the new packs, each after its checkpoint was read back whole."""
        turned = False
        with Writer(self.home) as writer:
            for manifest_id in in_order(self.work.records):
                record = self.work.records[manifest_id]
                lost = [key for key in self.work.lost_keys(manifest_id) if key in added]
                rescued = [pack for key in lost for pack in added[key]]
                if not rescued and not any(name in copied for name in record.packs):
                    continue
                new = _turned(record, rescued, copied)
                fault = read_back(self.home, manifest_id, new)
                if fault is not None:
                    # What is sound of it is read through the new packs, and nothing is let go.
                    new = replace(new, packs=tuple(dict.fromkeys((*new.packs, *record.packs))))
                    name = self.work.name(manifest_id)
                    self.done.faults.setdefault(name, f"{name}: {fault}")
                with writer.commit():
                    if records.get(self.home, manifest_id) == record and new != record:
                        records.put(writer, new)
                        turned = True
                if fault is None:
                    turned = True
                    self.done.exact.append(self.work.name(manifest_id))
                    self.done.faults.pop(self.work.name(manifest_id), None)
        return turned

    def _put_away(self, paths: list[Path]) -> None:
        """Put damaged packs into the trash that no record names any more."""
        with Writer(self.home) as writer, writer.commit():
            named = set[str]()
            for manifest_id in records.every(self.home):
                with suppress(MemcardError):
                    record = records.get(self.home, manifest_id)
                    named |= set(() if record is None else record.packs)
            gone = [path for path in paths if path.is_file() and path.stem not in named]
            if gone:
                title = f"{len(gone)} damaged packs"
                self.done.entry = trash.put_away(writer, "repair", title, gone).name


def _added(writer: PackWriter, key: str, found: Rescue, stand: Stand) -> PackedObject:
    """Write what was found elsewhere as it was kept before, as far as that can be told."""
    kind: Kind = "skeleton" if found.skeleton else "residual" if stand.residual else "tensor"
    base = None if found.skeleton else stand.base
    weigh = base is not None and kind == "tensor"
    place = (key, found.size, found.read)
    return writer.add(*place, item=found.item, kind=kind, base=base, weigh=weigh)


def _turned(record: Packed, rescued: list[str], copied: Mapping[str, str | None]) -> Packed:
    """Return a record with the new packs first, and copies in the places of damaged packs."""
    left = [copied.get(name, name) for name in (*rescued, *record.packs)]
    packs = tuple(name for name in left if name is not None)
    return replace(record, packs=tuple(dict.fromkeys(packs)))


def _fit(home: Layout, name: str, work: PackWork) -> bool:
    """Whether all that can be decoded in a new pack is what it should be."""
    with Pack.open(pack_path(home, name)) as pack:
        return all(work.shelf.check(pack, o, lambda n: None) is None for o in pack.objects.values())


def read_back(home: Layout, manifest_id: str, record: Packed) -> str | None:
    """Read a packed checkpoint whole; return what is wrong with it, None if it is exact."""
    try:
        manifest = manifests.get(home, manifest_id)
        stored = StoredCheckpoint(home, manifest_id, record)
    except MemcardError as error:
        return str(error)
    try:
        for number, file in enumerate(manifest.files):
            whole = hashlib.sha256()
            for part in pieces(stored, number, file.size):
                whole.update(part)
            if whole.hexdigest() != file.sha256:
                return "what its packs give is not what was packed."
    except MemcardError as error:
        return str(error)
    finally:
        stored.close()
    return None


def pieces(stored: StoredCheckpoint, number: int, size: int) -> Iterator[memoryview]:
    """Yield a file of a packed checkpoint piece by piece."""
    for at in range(0, size, _PIECE):
        part = memoryview(bytearray(min(_PIECE, size - at)))
        stored.read_file(number, at, part)
        yield part
