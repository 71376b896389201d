"""Which trainings there are and where: one small record for each, written when it begins."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from memcard.core.atomic import disk_errors
from memcard.errors import CorruptError
from memcard.store.canonical import Fields, read_object, sealed
from memcard.store.layout import Layout
from memcard.store.writer import Writer

VERSION: Final = 1
_SHELF: Final = "trainings"
_ID: Final = re.compile("[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Training:
    """A training this library was told of.

    Attributes:
        id: of the run, 16 hex digits.
        name: of the run.
        folder: of the run; absolute.
    """

    id: str
    name: str
    folder: Path


def path_of(layout: Layout, name: str) -> Path:
    """Return the file of a record, by the id of the run."""
    return layout.shelf(_SHELF) / f"{name}.json"


def note(writer: Writer, training: Training) -> None:
    """Write a record, unless it is there already; call it under the lock."""
    facts = {"training": VERSION, "id": training.id, "name": training.name}
    raw = sealed(facts | {"folder": str(training.folder)})
    writer.keep(path_of(writer.layout, training.id), raw)


def forget(writer: Writer, name: str) -> None:
    """Remove a record by the id of the run; call it under the lock."""
    path = path_of(writer.layout, name)
    with disk_errors(path):
        path.unlink(missing_ok=True)


def every(layout: Layout) -> Iterator[Training]:
    """Yield all records in the order of their ids; a damaged one is passed over: the next start writes it anew."""
    for path in sorted(layout.shelf(_SHELF).glob("*.json")):
        if not _ID.fullmatch(path.stem):
            continue
        with suppress(CorruptError, FileNotFoundError):
            fields = Fields(read_object(path), str(path))
            folder = Path(fields.text("folder"))
            if fields.text("id") == path.stem and folder.is_absolute():
                yield Training(path.stem, fields.text("name"), folder)
