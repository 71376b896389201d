"""List and search what the library has, through its index: no file of a checkpoint is opened."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, TypeAlias

from memcard.errors import CorruptError, MemcardError
from memcard.store import packed, refs
from memcard.store.index import Index, IndexRow, Sort
from memcard.store.layout import Layout, check
from memcard.store.library_index import open_index
from memcard.store.whereabouts import copies_of

State: TypeAlias = Literal["at hand", "packed", "missing"]

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

    @property
    def at_hand(self) -> bool | None:
        """Whether an unchanged copy can be read right now; None if it was not looked for."""
        return None if self.state is None else self.state == "at hand"

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        return asdict(self) | {"tags": list(self.tags)}


@dataclass(frozen=True, slots=True)
class Listing:
    """Names that fit, and what could not be read."""

    entries: tuple[Entry, ...]
    faults: tuple[str, ...] = ()


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
        look: also see whether a copy is at hand, which costs a stat each; None: if there are at most
            ``LOOKED_AT`` names.

    Raises:
        NotFoundError: there is no library.
        UsageError: nothing is sorted by this.
    """
    library_id = check(home)
    with open_index(home, library_id) as index:
        found = _asked(
            *(index, query), kind=kind, family=family, tags=tags, sort=sort, descending=descending
        )
        faults = _faults(home, index)
    if look is None:
        look = len(found) <= LOOKED_AT
    return Listing(tuple(_entry(home, row, look=look) for row in found), faults)


def _asked(
    index: Index,
    query: str,
    *,
    kind: str | None,
    family: str | None,
    tags: Sequence[str],
    sort: Sort | None,
    descending: bool,
) -> list[IndexRow]:
    if not query.strip():
        return index.list(
            sort=sort or "name", descending=descending, kind=kind, family=family, tags=tags
        )
    found = index.search(query, kind=kind, family=family, tags=tags, limit=None)
    if sort is None:
        return found
    names = {row.name for row in found}
    every = index.list(sort=sort, descending=descending, kind=kind, family=family, tags=tags)
    return [row for row in every if row.name in names]


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
