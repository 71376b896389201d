"""Packs of which the greater part is needed no more: what is needed is copied to a new pack.

The copy is read back before any record names it. The old pack stays on its shelf, named by no record, until the
collection that follows puts it into the trash. A reader that has it open reads on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from memcard.store import manifest as manifests
from memcard.store import packed
from memcard.store.layout import Layout
from memcard.store.objects import pack_path
from memcard.store.pack import Pack, PackWriter
from memcard.store.writer import Writer

SHARE = 0.5  # of a pack that must be dead for it to be written anew


@dataclass(frozen=True, slots=True)
class Thin:
    """A pack that is mostly dead.

    Attributes:
        path: of it.
        live: keys that some checkpoint needs.
        nbytes: what they take.
        size: of the file.
    """

    path: Path
    live: tuple[str, ...]
    nbytes: int
    size: int


def thin_packs(layout: Layout, names: Iterable[str]) -> list[Thin]:
    """Return the packs that are mostly dead, of those that records of these manifests name.

    Args:
        layout: of the library.
        names: ids of all manifests that are kept.

    Raises:
        MemcardError: a record, manifest or pack cannot be read, so what it needs is not known.
    """
    records = [r for name in names if (r := packed.get(layout, name)) is not None]
    with _opened(layout, records) as opened:
        live = _live(layout, records, opened)
        found = (_thin(pack, live) for pack in opened.values())
        return [thin for thin in found if thin is not None]


@contextmanager
def _opened(layout: Layout, records: Iterable[packed.Packed]) -> Iterator[dict[str, Pack]]:
    """Open all packs that records name."""
    with ExitStack() as stack:
        names = dict.fromkeys(name for record in records for name in record.packs)
        yield {n: stack.enter_context(Pack.open(pack_path(layout, n))) for n in names}


def _live(layout: Layout, records: Iterable[packed.Packed], opened: Mapping[str, Pack]) -> set[str]:
    """Return the keys of everything packed checkpoints are read from, bases too."""
    return _with_bases(opened, _wanted(layout, records))


def _wanted(layout: Layout, records: Iterable[packed.Packed]) -> set[str]:
    """Return the keys of everything packed checkpoints consist of."""
    wanted = set[str]()
    for record in records:
        manifest = manifests.get(layout, record.manifest)
        wanted |= {t.blake3 for t in manifest.tensors.values() if t.blake3}
        wanted |= {file.skeleton.blake3 for file in manifest.files}
    return wanted


def _with_bases(opened: Mapping[str, Pack], wanted: set[str]) -> set[str]:
    """Add what the objects are kept as differences to."""
    waiting, found = list(wanted), set(wanted)
    while waiting:
        key = waiting.pop()
        for pack in opened.values():
            one = pack.objects.get(key)
            if one is not None and one.base is not None and one.base not in found:
                found.add(one.base)
                waiting.append(one.base)
    return found


def _thin(pack: Pack, live: set[str]) -> Thin | None:
    if pack.faults:
        return None  # `repair` mends it
    whole = sum(one.stored for one in pack.objects.values())
    kept = tuple(key for key in pack.objects if key in live)
    nbytes = sum(pack.objects[key].stored for key in kept)
    if not kept or nbytes > (1 - SHARE) * whole:
        return None
    return Thin(pack.path, kept, nbytes, pack.path.stat().st_size)


def rewrite(writer: Writer, thin: Thin) -> bool:
    """Copy what is needed of a pack, and let the records name the copy.

    Returns:
        Whether it was done; not if the copy does not read back as it should, or if a record came to need
        more of the pack meanwhile.
    """
    layout = writer.layout
    with Pack.open(thin.path) as old, PackWriter(layout.packs) as new:
        for key in thin.live:
            old.copy(key, new)
        path = new.commit()
    if path == thin.path:
        return False
    with Pack.open(path) as made:
        if made.verify() or set(made.objects) != set(thin.live):
            return False
    with writer.commit():
        naming = [r for r in _records(layout) if thin.path.stem in r.packs]
        with _opened(layout, naming) as opened:
            live = _live(layout, naming, opened)
            there = opened[thin.path.stem].objects if naming else {}
            if any(key in live for key in there if key not in thin.live):
                return False
        for record in naming:
            names = (path.stem if name == thin.path.stem else name for name in record.packs)
            packed.put(writer, replace(record, packs=tuple(dict.fromkeys(names))))
    return True


def _records(layout: Layout) -> list[packed.Packed]:
    """Return all records, those of checkpoints that lost their names too."""
    found = []
    for name in packed.every(layout):
        with suppress(FileNotFoundError):
            record = packed.get(layout, name)
            if record is not None:
                found.append(record)
    return found
