"""List what the library has, by names alone: no file of a checkpoint is opened."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from memcard.errors import CorruptError
from memcard.store import refs
from memcard.store.layout import Layout, check
from memcard.store.whereabouts import copies_of


@dataclass(frozen=True, slots=True)
class Entry:
    """One name of the library.

    Attributes:
        name: of the checkpoint.
        sha256: by which others know it.
        size: bytes of its files.
        format, kind, architecture: what it is.
        added: when the name came to mean this.
        versions: how many it has had.
        at_hand: whether an unchanged copy can be read right now; None if it was not looked for.
    """

    name: str
    sha256: str
    size: int
    format: str
    kind: str
    architecture: str | None
    added: str
    versions: int
    at_hand: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Listing:
    """Names that fit, and what could not be read."""

    entries: tuple[Entry, ...]
    faults: tuple[str, ...] = ()


def ls(home: Layout, query: str = "", *, look: bool = True) -> Listing:
    """List names in the order of the alphabet.

    Args:
        home: the library.
        query: words that all must be in the name, kind, family or format, in any case.
        look: also see whether a copy is at hand; costs a stat each.

    Raises:
        NotFoundError: there is no library.
    """
    check(home)
    words, found = query.casefold().split(), []
    faults: list[CorruptError] = []
    for ref in refs.every(home, faults):
        version = ref.version
        text = f"{ref.name} {version.kind} {version.architecture or ''} {version.format}".casefold()
        if all(word in text for word in words):
            found.append(_entry(home, ref, look=look))
    found.sort(key=lambda entry: entry.name.casefold())
    return Listing(tuple(found), tuple(map(str, faults)))


def _entry(home: Layout, ref: refs.Ref, *, look: bool) -> Entry:
    version = ref.version
    at_hand = any(c.fitness == "ok" for c in copies_of(home, version)) if look else None
    return Entry(
        *(ref.name, version.sha256, version.size, version.format, version.kind),
        *(version.architecture, version.at, len(ref.versions), at_hand),
    )
