"""What no name leads to any more: found, put into the trash, and after a while removed for good.

A name keeps its versions, a name in the trash too. A manifest keeps the files and skeletons it lists.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from memcard.errors import IntegrityError, MemcardError
from memcard.store import cards, packed, refs, trash
from memcard.store import manifest as manifests
from memcard.store.gc_packs import rewrite, thin_packs
from memcard.store.layout import Layout
from memcard.store.writer import Writer, living

GRACE: Final = 30 * 86400.0  # seconds in the trash
YOUNG: Final = 3600.0  # seconds in which a thing may still get its name

Memo: TypeAlias = dict[str, tuple[frozenset[str], frozenset[str]]]
"""Manifest to the digests of its files and skeletons."""

_HEX: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Needed:
    """What the names of a library lead to, as digests."""

    manifests: frozenset[str]
    files: frozenset[str]
    skeletons: frozenset[str]
    packs: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection did, or would do.

    Attributes:
        put_away: files of the library that nothing needs, now in the trash.
        nbytes: what they take; hard links with another name take nothing.
        removed: names of trash entries that were removed for good.
        freed: bytes that became free by that.
        entry: name of the trash entry, for ``undo``; None if nothing was put away.
        dry_run: whether nothing was done.
        rewritten: packs of which the greater part was dead: what is needed was copied to new ones.
        busy: whether other writers are at work, so that packs and young things were left alone.
    """

    put_away: tuple[Path, ...] = ()
    nbytes: int = 0
    removed: tuple[str, ...] = ()
    freed: int = 0
    entry: str | None = None
    dry_run: bool = False
    rewritten: tuple[Path, ...] = ()
    busy: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        paths = {"put_away": self.put_away, "rewritten": self.rewritten}
        return asdict(self) | {key: [str(path) for path in found] for key, found in paths.items()}


def collect(
    writer: Writer, *, grace: float = GRACE, young: float = YOUNG, dry_run: bool = False
) -> Collected:
    """Put away what nothing needs, and remove for good what has been in the trash for long.

    Args:
        writer: of the library; its lock is taken.
        grace: seconds after which an entry of the trash is removed.
        young: seconds for which a new thing is left alone: its name may be on its way.
        dry_run: only say what would be done.

    Raises:
        IntegrityError: a name or a manifest cannot be read, so what it needs is not known.
    """
    layout = writer.layout
    busy = living(layout) > 1
    known: Memo = {}  # manifests never change, so most are read before the lock is taken
    rewritten = () if busy else _rewrite(writer, known, dry_run=dry_run)
    with writer.commit():
        # A writer that is at work may be about to name what nothing needs yet.
        busy = busy or living(layout) > 1
        young = max(young, YOUNG) if busy else young
        # What lies in the trash keeps what it leads to; so the old entries go first.
        old = [entry for entry in trash.every(layout) if entry.age >= grace]
        freed = sum(entry.nbytes for entry in old)
        if not dry_run:
            for entry in old:
                trash.remove(writer, entry)
            trash.remove_empty(layout)
        kept = needed(layout, without=frozenset(entry.name for entry in old), known=known)
        paths = tuple(
            path
            for path in unneeded(layout, kept)
            if _age(path) >= young and not (busy and path.suffix == ".pack")
        )
        nbytes = sum(s.st_size for p in paths if (s := p.stat()).st_nlink == 1)
        done = None
        if paths and not dry_run:
            title = f"{len(paths)} files nothing needs"
            done = trash.put_away(writer, "gc", title, paths).name
    names = tuple(entry.name for entry in old)
    return Collected(paths, nbytes, names, freed, done, dry_run, rewritten, busy)


def _rewrite(writer: Writer, known: Memo, *, dry_run: bool) -> tuple[Path, ...]:
    """Write packs anew that are mostly dead; those that cannot be read are left to ``repair``."""
    layout = writer.layout
    try:
        kept = needed(layout, known=known)
        thin = thin_packs(layout, kept.manifests)
    except MemcardError:
        return ()  # what cannot be read is told by the collection itself, or by verify
    except FileNotFoundError:  # a pack is missing: `doctor` tells
        return ()
    return tuple(one.path for one in thin if dry_run or rewrite(writer, one))


def needed(
    layout: Layout, *, without: frozenset[str] = frozenset(), known: Memo | None = None
) -> Needed:
    """Follow all names, those in the trash included.

    Args:
        layout: of the library.
        without: names of trash entries to pass over.
        known: files and skeletons of manifests that were read already; takes the others.

    Raises:
        IntegrityError: something on the way cannot be read.
    """
    roots: dict[str, str] = {}
    for ref in _names(layout, without):
        roots |= {version.manifest: version.sha256 for version in ref.versions}
    files, skeletons = set(roots.values()), set[str]()
    known = {} if known is None else known
    for name in roots:
        if name not in known:
            known[name] = _parts(layout, name)
        files |= known[name][0]
        skeletons |= known[name][1]
    sources, packs = _behind_packed(layout, roots)
    return Needed(
        frozenset(roots) | sources, frozenset(files), frozenset(skeletons), frozenset(packs)
    )


def _parts(layout: Layout, name: str) -> tuple[frozenset[str], frozenset[str]]:
    """Return the digests of the files and skeletons of a manifest."""
    try:
        found = manifests.get(layout, name)
    except MemcardError as error:
        raise _unreadable(str(error)) from error
    files = frozenset(file.sha256 for file in found.files)
    return files, frozenset(file.skeleton.blake3 for file in found.files)


def _behind_packed(layout: Layout, roots: Iterable[str]) -> tuple[set[str], set[str]]:
    """Return the manifests that recipes of packed checkpoints need, and the packs all of them need."""
    sources, packs = set[str](), set[str]()
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        try:
            record = packed.get(layout, name)
        except MemcardError as error:
            raise _unreadable(str(error)) from error
        if record is None:
            continue
        packs |= set(record.packs)
        waiting += [source for source in record.sources if source not in sources]
        sources |= set(record.sources)
    return sources, packs


def unneeded(layout: Layout, kept: Needed) -> Iterator[Path]:
    """Yield the files of the library that are not needed, by shelf and name."""
    for shelf, suffixes, needed_here in (
        ("manifests", (".json", ".zst"), kept.manifests),
        ("files", ("", ".json"), kept.files),
        ("skeletons", (".zst",), kept.skeletons),
        ("packed", (".json",), kept.manifests),
        ("packs", (".pack",), kept.packs),
        ("adopted", (".json",), kept.files),
    ):
        for path in _shelf(layout, shelf, *suffixes):
            if path.name[:64] not in needed_here:
                yield path
    for sha256 in cards.every(layout):
        if sha256 not in kept.files:
            yield cards.path_of(layout, sha256)


def _names(layout: Layout, without: frozenset[str]) -> Iterator[refs.Ref]:
    try:
        yield from refs.every(layout)
        for entry in trash.every(layout):
            if entry.name not in without:
                for path, item in entry.present():
                    if item.startswith("refs/"):
                        yield refs.read(path)
    except MemcardError as error:
        raise _unreadable(str(error)) from error


def _unreadable(text: str) -> IntegrityError:
    return IntegrityError(
        f"{text} What it leads to is not known, so nothing is put away. `memcard doctor` says more."
    )


def _shelf(layout: Layout, name: str, *suffixes: str) -> Iterator[Path]:
    """Yield the files of a shelf that are named as the specification says; no links."""
    for path in sorted(layout.shelf(name).glob("[0-9a-f][0-9a-f]/*")):
        digest = path.name[:64]
        ours = _HEX.fullmatch(digest) and path.name[64:] in suffixes
        if ours and path.is_file() and not path.is_symlink():
            yield path


def _age(path: Path) -> float:
    """Return the seconds since a file was written, or got its name here."""
    state = path.stat()
    return time.time() - max(state.st_mtime, state.st_ctime)
