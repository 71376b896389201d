"""What the library keeps of the cards of checkpoints: what was read with the file, and what its user says.

They stand beside the manifests, not in them: a manifest is named by its bytes, and a new tag must not give a
checkpoint a new id. A card belongs to the bytes, so two names of one checkpoint share it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from memcard.core.card import Card, from_dict, merge
from memcard.errors import CorruptError, UnsupportedError
from memcard.store.canonical import Fields, read_object, sealed
from memcard.store.layout import Layout
from memcard.store.writer import Writer

VERSION: Final = 1
OWN: Final = "library"  # the origin of what the user said to the library
_FILE: Final = re.compile(r"[0-9a-f]{64}\.json")


@dataclass(frozen=True, slots=True)
class Kept:
    """The card of the checkpoint with this digest.

    Attributes:
        sha256: by which people know it.
        read: what its metadata and the files beside it said when it was added last.
        said: what the user said to the library; it stands above all else.
    """

    sha256: str
    read: Card = field(default_factory=Card)
    said: Card = field(default_factory=Card)

    @property
    def card(self) -> Card:
        """Both as one."""
        return whole(self.said, self.read)

    def to_bytes(self) -> bytes:
        """Return the canonical JSON."""
        said = replace(self.said, origin={}, notes=())
        return sealed(
            {
                "card": VERSION,
                "sha256": self.sha256,
                "read": self.read.to_dict(),
                "said": said.to_dict(),
            }
        )


def whole(said: Card, read: Card) -> Card:
    """Return one card of what the user said and of what was read."""
    return merge([replace(said, origin={}).said_by(OWN), read])


def folder(layout: Layout) -> Path:
    """Return the folder of all cards: flat, so that its time tells of every change."""
    return layout.root / "cards"


def path_of(layout: Layout, sha256: str) -> Path:
    """Return the file of a card."""
    return folder(layout) / f"{sha256}.json"


def get(layout: Layout, sha256: str) -> Kept | None:
    """Return the card of a checkpoint; None if there is none.

    Raises:
        CorruptError: its file is damaged.
        UnsupportedError: a newer memcard wrote it.
    """
    path = path_of(layout, sha256)
    try:
        found = read_object(path)
    except FileNotFoundError:
        return None
    fields = Fields(found, str(path))
    if (version := fields.number("card")) > VERSION:
        raise UnsupportedError(
            f"{path}: is a card of version {version}; this memcard knows {VERSION}. "
            "Upgrade it: pip install --upgrade memcard."
        )
    if fields.digest("sha256") != sha256:
        raise CorruptError(f"{path}: is the card of another checkpoint. Remove the file.")
    return Kept(sha256, _card(fields, "read", path), _card(fields, "said", path))


def put(writer: Writer, kept: Kept) -> None:
    """Write a card; call it under the lock."""
    writer.write(path_of(writer.layout, kept.sha256), kept.to_bytes())


def note_read(writer: Writer, sha256: str, read: Card) -> None:
    """Keep what was read with a file, unless it says nothing; call it under the lock.

    What the user said stays. A damaged card is replaced, for what it said cannot be had back from it.
    """
    if not any(read.stated()):
        return
    try:
        old = get(writer.layout, sha256)
    except CorruptError:
        old = None
    new = replace(old or Kept(sha256), read=read)
    if new != old:
        put(writer, new)


def every(layout: Layout) -> Iterator[str]:
    """Yield the SHA-256 of all checkpoints that have a card."""
    try:
        names = sorted(path.name for path in folder(layout).iterdir())
    except FileNotFoundError:
        return
    yield from (name[:64] for name in names if _FILE.fullmatch(name))


def _card(fields: Fields, key: str, path: Path) -> Card:
    found: dict[str, Any] = fields.mapping(key)
    card, faults = from_dict(found, where=f"{path}, {key}")
    return replace(card, notes=(*card.notes, *faults))
