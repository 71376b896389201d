"""Cards of checkpoints of the library: read when a file is added, and what the user says of a name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from memcard.cards import Subject, read_card
from memcard.core.card import Card
from memcard.errors import MemcardError
from memcard.jobs._library_refs import manifest_at, record_of, stored
from memcard.store import cards
from memcard.store import manifest as manifests
from memcard.store.cards import Kept
from memcard.store.layout import Layout
from memcard.store.refs import Version
from memcard.store.whereabouts import copies_of
from memcard.store.writer import Writer

_METADATA = "memcard.card"
_SIDECAR = "memcard_sidecar"


def note_read(writer: Writer, sha256: str, path: Path, metadata: Mapping[str, str]) -> None:
    """Keep what stands in and beside a file that was just added; call it under the lock."""
    cards.note_read(writer, sha256, read_card(Subject(path, metadata)))


def kept_of(home: Layout, version: Version) -> Kept:
    """Return the card of a stored checkpoint, with what stands beside its files right now.

    Where no file of the user's is at hand, what was read when it was added counts.

    Raises:
        CorruptError, IntegrityError: the card or the manifest is damaged.
    """
    kept = cards.get(home, version.sha256) or Kept(version.sha256)
    metadata = manifests.get(home, version.manifest).metadata
    beside = [c.path for c in copies_of(home, version) if not c.owned and c.fitness == "ok"]
    read = read_card(Subject(beside[0], metadata)) if beside else kept.read
    if not beside and not any(read.stated()):  # added before there were cards
        read = read_card(Subject(home.root / "nowhere", metadata, beside={}))
    return replace(kept, read=read)


def say(
    home: Layout, version: Version, said: Card, *, dry_run: bool = False
) -> tuple[Path, Mapping[str, object]]:
    """Keep what the user says of a checkpoint, in place of what he said before.

    Returns:
        The file, and the card in it.
    """
    path = cards.path_of(home, version.sha256)
    said = replace(said, origin={}, notes=())
    if not dry_run:
        with Writer(home) as writer, writer.commit():
            old = cards.get(home, version.sha256) or Kept(version.sha256)
            cards.put(writer, replace(old, said=said))
    return path, said.to_dict()


def with_card(ref: str | Path, metadata: Mapping[str, str]) -> Mapping[str, str]:
    """Return the metadata of a checkpoint with the settings its card in the library recommends.

    Of a path: with those that the user wrote beside it (``memcard card --set``, ``memcard tune --write``).
    """
    found = stored(ref)
    if found is None:
        settings = _written_beside(Path(ref).expanduser())
    else:
        kept = cards.get(found[0], found[2].sha256)
        settings = {} if kept is None else kept.card.settings
    if not settings:
        return metadata
    try:
        old = json.loads(metadata.get(_METADATA, "{}"))
    except (ValueError, RecursionError):
        old = {}
    old = old if isinstance(old, dict) else {}
    before = old.get("settings")
    old["settings"] = {**(before if isinstance(before, dict) else {}), **settings}
    return {**metadata, _METADATA: json.dumps(old)}


def _written_beside(path: Path) -> Mapping[str, str | int | float]:
    """Return the settings in memcard's own sidecar; what other tools wrote is no word of the user."""
    if not path.exists():
        return {}
    card = read_card(Subject(path))
    own = (name for name, by in card.origin.items() if by == _SIDECAR)
    keys = [name.partition(".")[2] for name in own if name.startswith("settings.")]
    return {key: card.settings[key] for key in keys}


def said_of(path: Path) -> Card | None:
    """Return what the user said to the library of the checkpoint a path leads to; None if nothing."""
    try:
        home, manifest = manifest_at(path) or (None, "")
        kept = None if home is None else cards.get(home, manifests.get(home, manifest).sha256)
    except (MemcardError, OSError):
        return None  # doctor speaks of it
    if kept is None or not any(kept.said.stated()):
        return None
    return replace(kept.said, origin={}).said_by(cards.OWN)


def read_of(path: Path) -> Card | None:
    """Return what was read beside a checkpoint of which only the packs are left; None for a file."""
    record = record_of(path)
    if record is None:
        return None
    kept = cards.get(record[0], manifests.get(*record).sha256)
    return None if kept is None else kept.read
