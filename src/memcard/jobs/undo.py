"""Put back what was put away."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from memcard.store import reserve, trash
from memcard.store.layout import Layout, check
from memcard.store.writer import Writer


@dataclass(frozen=True, slots=True)
class Trashed:
    """One entry of the trash: what one command put away.

    Attributes:
        entry: its name.
        verb: the command, ``rm`` or ``gc``.
        title: what it was about.
        at: when.
        items: what it holds, relative to the library.
        nbytes: what removing it for good would free.
    """

    entry: str
    verb: str
    title: str
    at: str
    items: tuple[str, ...]
    nbytes: int

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        return asdict(self)


def undo(home: Layout, entry: str | None = None) -> Trashed:
    """Put back what ``rm`` or ``gc`` put away last, or the entry whose name begins so.

    Returns:
        What was put back.

    Raises:
        NotFoundError: there is nothing to put back.
        UsageError: a name is in use again; nothing was moved.
    """
    check(home)
    return reserve.with_space(home, lambda: _put_back(home, entry))


def _put_back(home: Layout, entry: str | None) -> Trashed:
    with Writer(home) as writer, writer.commit():
        found = trash.find(home, entry)
        told = _told(found)
        trash.undo(writer, found)
    return told


def trashed(home: Layout) -> tuple[Trashed, ...]:
    """Return what is in the trash, the oldest first."""
    check(home)
    return tuple(_told(entry) for entry in trash.every(home, []) if entry.present())


def _told(entry: trash.Entry) -> Trashed:
    items = tuple(item for _, item in entry.present())
    return Trashed(entry.name, entry.verb, entry.title, entry.at, items, entry.nbytes)
