"""List and search what the library has, through its index: no file of a checkpoint is opened."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal, TypeAlias

from memcard.errors import CorruptError, MemcardError
from memcard.jobs._run_names import run_of
from memcard.store import packed, refs
from memcard.store.index import Index, IndexRow, Sort
from memcard.store.index_rows import Filter
from memcard.store.layout import Layout, check
from memcard.store.library_index import open_index
from memcard.store.whereabouts import copies_of

State: TypeAlias = Literal["at hand", "packed", "missing"]

TRAINING: Final = "training"  # kind of the saves
LOOKED_AT: Final = 500  # names; looking for more of them would take longer than listing them


@dataclass(slots=True)
class Entry:
    """One name of the library.

    Attributes:
        name: of the checkpoint.
        sha256: by which others know it.
        size: bytes of its files.
        format, kind, architecture: what it is.
        added: when the name came to mean this; empty if unknown.
        versions: how many it has had.
        title, tags: as on its card.
        state: ``at hand``: an unchanged plain copy can be read right now; else ``packed``, or
            ``missing``. None if it was not looked for.
        stored: bytes its packs took beside what was there; None if it is not packed, or was not looked for.
        saves: how many saves of one training this stands for, of which all else is said together; 0 if it
            is a name of its own.
    """

    name: str
    sha256: str
    size: int
    format: str
    kind: str
    architecture: str | None
    added: str
    versions: int
    title: str = ""
    tags: tuple[str, ...] = ()
    state: State | None = None
    stored: int | None = None
    saves: int = 0

    @property
    def at_hand(self) -> bool | None:
        """Whether an unchanged copy can be read right now; None if it was not looked for."""
        return None if self.state is None else self.state == "at hand"

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        return asdict(self) | {"tags": list(self.tags)}


@dataclass(frozen=True, slots=True)
class Listing:
    """Names that fit, and what could not be read.

    Attributes:
        entries: the names, at most as many as were asked for.
        faults: what is wrong with names that cannot be listed.
        total: how many names fit.
    """

    entries: tuple[Entry, ...]
    faults: tuple[str, ...] = ()
    total: int = 0


def ls(
    home: Layout,
    query: str = "",
    *,
    kind: str | None = None,
    family: str | None = None,
    tags: Sequence[str] = (),
    sort: Sort | None = None,
    descending: bool = False,
    look: bool | None = None,
    limit: int | None = None,
    grouped: bool = False,
) -> Listing:
    """List names; of all, or of those that have the words of a query in name, card or digests.

    Args:
        home: the library.
        query: words; each must begin a word of the name, the title, the tags, the trigger words, the
            kind, the family, or the text of the card, in any case.
        kind: only of this kind.
        family: only of this family.
        tags: only with all of these.
        sort: what by; None: by name, or with a query the best hits first.
        descending: the largest first.
        look: also see whether a copy is at hand, which costs a stat each; None: if at most ``LOOKED_AT``
            names are listed.
        limit: list at most so many, the first in that order; None for all.
        grouped: let the saves of each training be one entry, unless words or their kind are asked for.

    Raises:
        NotFoundError: there is no library.
        UsageError: nothing is sorted by this.
    """
    library_id = check(home)
    asked = Filter(kind, family, tuple(tags))
    with open_index(home, library_id) as index:
        grouped = (
            grouped and not query.strip() and kind is None and bool(index.count(kind=TRAINING))
        )
        most = None if grouped else limit  # the saves of a training would fill a page
        found = _asked(index, query.strip(), asked, sort, limit=most, descending=descending)
        total = len(found)
        if total == most:
            total = index.count(query.strip() or None, kind=kind, family=family, tags=tags)
        faults = _faults(home, index)
    if grouped:
        groups = _groups(found)
        total, found_groups = len(groups), groups[:limit]
        look = sum(map(len, found_groups)) <= LOOKED_AT if look is None else look
        return Listing(
            tuple(_together([_entry(home, r, look=look) for r in g]) for g in found_groups),
            *(faults, total),
        )
    if look is None:
        look = len(found) <= LOOKED_AT
    return Listing(tuple(_entry(home, row, look=look) for row in found), faults, total)


def _groups(found: Sequence[IndexRow]) -> list[list[IndexRow]]:
    """Put the saves of each training together, where the first of them stands."""
    groups: dict[str, list[IndexRow]] = {}
    for row in found:
        run = run_of(row.name) if row.kind == TRAINING else None
        groups.setdefault(f"name {row.name}" if run is None else f"run {run}", []).append(row)
    return list(groups.values())


def _together(entries: list[Entry]) -> Entry:
    """Return one entry for the saves of a training; a single one stays what it is."""
    first = entries[0]
    if len(entries) == 1:
        return first
    states = {entry.state for entry in entries}
    stored = [entry.stored for entry in entries if entry.stored is not None]
    return replace(
        first,
        name=run_of(first.name) or first.name,
        sha256="",
        size=sum(entry.size for entry in entries),
        added=max(entry.added for entry in entries),
        state=states.pop() if len(states) == 1 else None,
        stored=sum(stored) if len(stored) == len(entries) else None,
        saves=len(entries),
    )


def _asked(
    index: Index,
    query: str,
    wanted: Filter,
    sort: Sort | None,
    *,
    limit: int | None,
    descending: bool,
) -> list[IndexRow]:
    which: dict[str, Any] = {"kind": wanted.kind, "family": wanted.family, "tags": wanted.tags}
    if not query:
        return index.list(sort=sort or "name", descending=descending, limit=limit, **which)
    return index.search(query, sort=sort, descending=descending, limit=limit, **which)


def _faults(home: Layout, index: Index) -> tuple[str, ...]:
    """Return what is wrong with names that have no row; they are read only if there are such."""
    try:
        there = sum(name.endswith(".json") for name in os.listdir(home.refs))  # noqa: PTH208  # 6 x faster
    except FileNotFoundError:
        return ()
    if there == index.count():
        return ()
    faults: list[CorruptError] = []
    for _ in refs.every(home, faults):
        pass
    return tuple(map(str, faults))


def _entry(home: Layout, row: IndexRow, *, look: bool) -> Entry:
    added = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(row.added))
    return Entry(
        *(row.name, row.sha256, row.size, row.format, row.kind, row.family or None),
        *(added if row.added else "", row.versions, row.title, row.tags),
        *(_state(home, row) if look else (None, None)),
    )


def _state(home: Layout, row: IndexRow) -> tuple[State, int | None]:
    """Return where a checkpoint is, and what it takes in packs."""
    version = refs.Version(
        row.manifest, {"sha256": row.sha256}, row.size, "", "", row.format, row.kind
    )
    stored, at_hand = None, False
    with suppress(MemcardError):  # verify and doctor tell what is wrong with it
        record = packed.get(home, row.manifest)
        stored = None if record is None else record.stored
        at_hand = any(copy.fitness == "ok" for copy in copies_of(home, version))
    return "at hand" if at_hand else "missing" if stored is None else "packed", stored
