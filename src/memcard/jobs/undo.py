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
        verb: the command: ``rm``, ``gc``, ``repair`` or ``pack``.
        title: what it was about.
        at: when.
        items: what it holds, relative to the library; paths of the user's own files.
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
    """Put back what was put away last, or the entry whose name begins so.

    Files of the user's go back to where they were.

    Returns:
        What was put back.

    Raises:
        NotFoundError: there is nothing to put back.
        UsageError: a name is in use again, or another file lies at a path; nothing was moved.
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
    return tuple(_told(entry) for entry in trash.every(home, []) if not entry.is_empty)


def _told(entry: trash.Entry) -> Trashed:
    originals = tuple(str(original.path) for _, original in entry.present_originals())
    items = (*(item for _, item in entry.present()), *originals)
    return Trashed(entry.name, entry.verb, entry.title, entry.at, items, entry.nbytes)
