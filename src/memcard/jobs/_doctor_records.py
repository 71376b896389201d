"""What may be wrong with the records of a library, and which checkpoints depend on what is."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from memcard.errors import CorruptError, MemcardError
from memcard.formats import open_file
from memcard.jobs._doctor_place import Finding
from memcard.jobs._library_members import describe
from memcard.store import cards, places, refs, trash
from memcard.store import manifest as manifests
from memcard.store import packed as records
from memcard.store.layout import Layout
from memcard.store.manifest import Skeleton
from memcard.store.objects import pack_path
from memcard.store.pack import Pack
from memcard.store.packed import Packed
from memcard.store.refs import Ref, Version
from memcard.store.survey import get_bones
from memcard.store.whereabouts import Copy, copies, copies_of
from memcard.store.writer import Writer

_SHOWN = 8  # names in one sentence
_ADD = "memcard add FILE, with a file that has these bytes"
_REPAIR = "memcard repair looks for other copies of what it holds"


@dataclass
class _Look:
    """What was read of the library so far."""

    home: Layout
    fix: bool
    names: list[Ref] = field(default_factory=list)
    lacking: dict[str, MemcardError] = field(default_factory=dict)
    skeletons: dict[str, tuple[Skeleton, str]] = field(default_factory=dict)
    packs: dict[str, str | None] = field(default_factory=dict)  # name to what is wrong with it

    def read(self, name: str, called: str) -> None:
        """Read a manifest; keep only what is asked of it later, for there may be many."""
        try:
            manifest = manifests.get(self.home, name)
        except MemcardError as error:
            self.lacking[name] = error
            return
        self.lacking.pop(name, None)
        for file in manifest.files:
            if file.skeleton.stored:
                self.skeletons.setdefault(file.skeleton.blake3, (file.skeleton, called))


def look(home: Layout, *, fix: bool) -> Iterator[Finding]:
    """Read all records; no file of a checkpoint is read, and of packs only their lists of objects."""
    seen = _Look(home, fix)
    yield from _names(seen)
    pairs = [(ref, version) for ref in seen.names for version in ref.versions]
    for manifest, name in {v.manifest: ref.name for ref, v in reversed(pairs)}.items():
        seen.read(manifest, name)
    yield from _manifests(seen, pairs)
    yield from _packs(seen, pairs)
    for ref, version in pairs:
        yield from _copies(seen, ref, version)
    yield from _skeletons(seen)
    yield from _others(home)


def _names(seen: _Look) -> Iterator[Finding]:
    home = seen.home
    for path in sorted(home.refs.glob("*.json")):
        try:
            ref = refs.read(path)
        except FileNotFoundError:
            continue
        except MemcardError as error:
            yield Finding(
                *("error", str(path), f"a name cannot be read: {_said(error, path)}"),
                f"Put the file back from a backup; or remove it, then name the checkpoint again: {_ADD}.",
            )
            continue
        seen.names.append(ref)
        if path.stem != refs.quoted(ref.name):
            yield Finding(
                *(
                    "warning",
                    str(path),
                    f"holds the name {ref.name!r}, which belongs into another file.",
                ),
                f"Rename it to {refs.quoted(ref.name)}.json.",
            )


def _manifests(seen: _Look, pairs: list[tuple[Ref, Version]]) -> Iterator[Finding]:
    for name, error in list(seen.lacking.items()):
        named = [ref.name for ref, version in pairs if version.manifest == name]
        version = next((v for _, v in pairs if v.manifest == name), None)
        path = manifests.path_of(seen.home, name)
        copy = None if version is None else _readable(seen.home, version)
        finding = Finding(
            *("error", str(path), f"{_said(error, path)} Needed by: {_few(named)}."),
            f"{_ADD}." if copy is None else f"memcard doctor --fix, or: memcard add '{copy}'.",
            "" if copy is None else f"writes it anew from {copy}",
        )
        if seen.fix and copy is not None and _remade(seen.home, name, copy):
            finding = replace(finding, fixed=True)
            seen.read(name, named[0])
        yield finding


def _readable(home: Layout, version: Version) -> Path | None:
    """Return a plain copy from which the manifest can be made again."""
    if version.format in ("diffusers_folder", "sharded", "dcp_memcard"):
        record = places.get(home, version.sha256)
        paths = [place.path for place in record.places] if record is not None else []
        return next((path for path in paths if path.exists()), None)
    with suppress(MemcardError):
        return next((c.path for c in copies(home, version.sha256) if c.fitness == "ok"), None)
    return None


def _remade(home: Layout, name: str, path: Path) -> bool:
    """Write a manifest anew if the same file gives the very same one."""
    try:
        checkpoint = open_file(path)
        try:
            manifest = describe(path, checkpoint).manifest
        finally:
            checkpoint.close()
    except (MemcardError, OSError):
        return False
    if hashlib.sha256(manifest.to_bytes()).hexdigest() != name:
        return False  # an older memcard knew less of it; `add` writes a new one
    with Writer(home) as writer, writer.commit():
        manifests.put(writer, manifest)
    return True


def _packs(seen: _Look, pairs: list[tuple[Ref, Version]]) -> Iterator[Finding]:
    """Open the packs that records name; tell who needs those that are lost."""
    home, named = seen.home, {v.manifest: ref.name for ref, v in reversed(pairs)}
    broken: dict[str, list[str]] = {}
    for manifest_id in records.every(home):
        name, path = named.get(manifest_id, manifest_id[:12]), records.path_of(home, manifest_id)
        try:
            record = records.get(home, manifest_id)
        except MemcardError as error:
            yield Finding(
                *("error", str(path), f"{_said(error, path)} Needed by: {name}."),
                f"Remove the file, then: {_ADD}; then memcard pack '{name}'.",
            )
            continue
        if record is None:
            continue
        yield from _sources(seen, name, record)
        for pack in record.packs:
            if _pack_fault(seen, pack) is not None:
                broken.setdefault(pack, []).append(name)
    for pack, names in broken.items():
        text = f"{seen.packs[pack]} Needed by: {_few(names)}."
        yield Finding("error", str(pack_path(home, pack)), text, f"{_REPAIR}.")


def _sources(seen: _Look, name: str, record: Packed) -> Iterator[Finding]:
    for source in record.sources:
        try:
            there = records.get(seen.home, source) is not None
            there = there and manifests.path_of(seen.home, source).is_file()
        except MemcardError:
            there = False
        if not there:
            yield Finding(
                *(
                    "error",
                    name,
                    f"is computed from a checkpoint that is not packed: {source[:12]}.",
                ),
                f"{_ADD} of that one or of {name}, then: memcard repair.",
            )


def _pack_fault(seen: _Look, name: str) -> str | None:
    """Return what is wrong with a pack as a whole; its objects are not read."""
    if name not in seen.packs:
        path, fault = pack_path(seen.home, name), None
        try:
            with Pack.open(path) as pack:
                fault = pack.faults[0] if pack.faults else None
        except FileNotFoundError:
            fault = "the pack is missing."
        except (MemcardError, OSError) as error:
            fault = str(error)
        seen.packs[name] = None if fault is None else fault.removeprefix(f"{path}: ")
    return seen.packs[name]


def _copies(seen: _Look, ref: Ref, version: Version) -> Iterator[Finding]:
    """Tell of files that are gone or changed, and of checkpoints that have none left."""
    if version.manifest in seen.lacking:
        return
    with suppress(MemcardError):  # a damaged record is told of below
        found = copies_of(seen.home, version)
        record = records.get(seen.home, version.manifest)
        packed = record is not None and not any(_pack_fault(seen, p) for p in record.packs)
        at_hand = packed or any(copy.fitness == "ok" for copy in found)
        called = ref.name if version is ref.version else f"{ref.name}@{version.sha256[:12]}"
        if not at_hand:
            where = "; ".join(f"{c.path} is {c.fitness}" for c in found) or "no place is known"
            yield Finding(
                *(
                    "error" if version is ref.version else "warning",
                    called,
                    f"no copy is at hand: {where}.",
                ),
                f"Put the file back, connect its disk, or {_ADD}.",
            )
            return
        for copy in found:
            if copy.fitness != "ok":
                yield _place(seen, called, version, copy)


def _place(seen: _Look, called: str, version: Version, copy: Copy) -> Finding:
    if copy.fitness == "changed":
        return Finding(
            *("warning", str(copy.path), f"was changed since it was added as {called}."),
            f"memcard add '{copy.path}' reads it again; other copies are used until then.",
        )
    gone = not copy.owned and copy.path.parent.is_dir()
    finding = Finding(
        *("note", str(copy.path), f"is not there any more; {called} can be read without it."),
        "Nothing. If its disk is not connected, connect it.",
        "forgets this place" if gone else "",
    )
    if seen.fix and gone:
        with Writer(seen.home) as writer, writer.commit():
            places.leave(writer, version.sha256, copy.path)
        finding = replace(finding, fixed=True)
    return finding


def _skeletons(seen: _Look) -> Iterator[Finding]:
    for key, (skeleton, name) in seen.skeletons.items():
        try:
            get_bones(seen.home, skeleton)
        except MemcardError as error:
            path = seen.home.skeleton(key)
            text = f"{_said(error, path)} Needed by: {name}."
            yield Finding("error", str(path), text, f"{_REPAIR}.")


def _others(home: Layout) -> Iterator[Finding]:
    """Look at the records that can be made again, and at the trash."""
    for sha256 in places.every(home):
        try:
            places.get(home, sha256)
        except MemcardError as error:
            path = home.adopted(sha256)
            yield Finding("warning", str(path), _said(error, path), "memcard add FILE again.")
    for sha256 in cards.every(home):
        try:
            cards.get(home, sha256)
        except MemcardError as error:
            path = cards.path_of(home, sha256)
            remedy = "Put it back from a backup; or remove it, and describe the checkpoint again."
            yield Finding("warning", str(path), _said(error, path), remedy)
    faults: list[CorruptError] = []
    for _ in trash.every(home, faults):
        pass
    for fault in faults:
        remedy = "What is in it cannot be undone by command; its files lie beside it, numbered."
        yield Finding("warning", str(home.trash), str(fault), remedy)


def _said(error: MemcardError, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ")


def _few(names: list[str]) -> str:
    unique = list(dict.fromkeys(names))
    more = f" and {len(unique) - _SHOWN} more" if len(unique) > _SHOWN else ""
    return f"{', '.join(unique[:_SHOWN])}{more}" if unique else "nothing that has a name"
