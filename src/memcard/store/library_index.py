"""The index of one library: rows of its names and cards, and how to tell that they have changed.

Names and cards lie in two flat folders, and every change of one is a rename into its folder, which changes the
time of the folder. So no command need tell the index of anything, and one that is killed cannot leave it stale.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Final

from memcard.core.card import Card
from memcard.errors import CorruptError, MemcardError
from memcard.store import cards, refs
from memcard.store.index import Changes, Index, IndexRow, row_of
from memcard.store.index_rows import SCHEMA
from memcard.store.layout import Layout

_COARSE: Final = 2.5  # seconds; FAT counts time in steps of two
_TICK: Final = 0.02  # seconds; two changes within one tick of the kernel's clock give one time


def open_index(layout: Layout, library_id: str, folder: Path | None = None) -> Index:
    """Return the index of a library; nothing is read before it is asked.

    Args:
        layout: of the library.
        library_id: as in ``library.json``.
        folder: for its file; None: the cache folder of this machine.
    """
    return Index(
        library_id,
        lambda: rows(layout),
        changes=lambda known: changes(layout, known),
        stamp=lambda: stamp(layout),
        folder=folder,
    )


def stamp(layout: Layout) -> str:
    """Return what changes whenever a name or a card does.

    A folder that has just changed is waited for, at most 20 ms, so that the next change shows.
    """
    return " ".join([str(SCHEMA), *map(_state, (layout.refs, cards.folder(layout)))])


def _state(folder: Path) -> str:
    try:
        found = folder.stat()
        young = time.time() - found.st_mtime
        if 0 <= young < _TICK:
            time.sleep(_TICK - young)
            found = folder.stat()
    except FileNotFoundError:
        return "none"
    if found.st_mtime_ns % 10**9 == 0 and abs(young) < _COARSE:
        return secrets.token_hex(8)  # a disk that counts in seconds: another change would not show
    return f"{found.st_dev}.{found.st_ino}.{found.st_mtime_ns}"


def rows(layout: Layout) -> Iterator[IndexRow]:
    """Yield the row of every name that can be read."""
    yield from changes(layout, ())[0]


def changes(layout: Layout, known: Iterable[tuple[str, str, str]]) -> Changes:
    """Return the rows that are otherwise than ``known``, and the names of those that are gone.

    Costs a stat for each name and card; only what changed is read.
    """
    named, carded = _files(layout.refs), _files(cards.folder(layout))
    gone, left = list[str](), dict(named)
    for name, sha256, mark in known:
        stem, _, state = mark.partition(" ")
        if state == f"{named.get(stem)} {carded.get(sha256)}":
            del left[stem]
        else:
            gone.append(name)  # also of a name that is written in other letters now
    return _read(layout, left, carded), gone


def _read(
    layout: Layout, named: Mapping[str, str], carded: Mapping[str, str]
) -> Iterator[IndexRow]:
    for stem, state in named.items():
        try:
            ref = refs.read(layout.refs / f"{stem}.json")
        except (CorruptError, FileNotFoundError):
            continue  # ls, doctor and verify tell of it
        if refs.quoted(ref.name) != stem:
            continue  # a forged name would hide another one
        sha256 = ref.version.sha256
        try:
            kept = cards.get(layout, sha256) if sha256 in carded else None
        except MemcardError:
            kept = None
        card = Card() if kept is None else kept.card
        yield _row(ref, card, f"{stem} {state} {carded.get(sha256)}")


def _row(ref: refs.Ref, card: Card, mark: str) -> IndexRow:
    version = ref.version
    row = row_of(
        card,
        manifest=version.manifest,
        name=ref.name,
        sha256=version.sha256,
        kind=version.kind,
        family=version.architecture or "",
        size=version.size,
        added=_seconds(version.at),
    )
    # A file is also looked for by the other digests that sites and tools call it by.
    row.text = "\n".join([row.text, version.origin, *version.digests.values()])
    row.format, row.versions, row.mark = version.format, len(ref.versions), mark
    return row


def _files(folder: Path) -> dict[str, str]:
    """Return the stems of the JSON files of a folder, each with what its file system tells of it."""
    found = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(".json"):
                    state = entry.stat()
                    found[entry.name[:-5]] = f"{state.st_ino}.{state.st_mtime_ns}.{state.st_size}"
    except FileNotFoundError:
        return {}
    return found


def _seconds(at: str) -> float:
    try:
        return datetime.fromisoformat(at).timestamp()
    except ValueError:
        return 0.0
