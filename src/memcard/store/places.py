"""Files that are not the library's: where they lie, and whether they are still what they were.

They are looked at, never touched.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

from memcard.core.atomic import disk_errors
from memcard.core.digest import sha256_file
from memcard.errors import CorruptError
from memcard.store.canonical import Fields, read_object, sealed
from memcard.store.layout import Layout
from memcard.store.writer import Writer

VERSION: Final = 1
_FILE: Final = "sha256"
_WHOLE: Final = "whole"
MARGIN: Final = 2.0  # seconds; FAT counts time in steps of two


def now() -> str:
    """Return the time as it is written into records."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class State:
    """What a file system tells of a file without reading it."""

    size: int
    mtime_ns: int
    inode: int
    device: int

    @classmethod
    def of(cls, stat: os.stat_result) -> Self:
        """Take it from a stat."""
        return cls(stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_dev)

    def is_of(self, stat: os.stat_result) -> bool:
        """Whether a file is as it was: size, time, and inode if the disk has the same number."""
        same = (stat.st_size, stat.st_mtime_ns) == (self.size, self.mtime_ns)
        return same and (stat.st_dev != self.device or stat.st_ino == self.inode)


@dataclass(frozen=True, slots=True)
class Place:
    """One path at which the bytes were seen.

    Attributes:
        path: absolute, as the user named it; a link is not resolved.
        state: of the file when it was read.
        seen: when that was.
    """

    path: Path
    state: State
    seen: str

    @property
    def is_settled(self) -> bool:
        """Whether the file was older than ``MARGIN`` when it was read.

        If not, it may have been written to again within one tick of the disk's clock: nothing shows that.
        """
        try:
            seen = datetime.fromisoformat(self.seen).timestamp()
        except ValueError:
            return False
        return seen - self.state.mtime_ns / 1e9 > MARGIN

    def is_as_it_was(self) -> bool:
        """Whether the file is there and has not changed, as far as that shows."""
        try:
            return self.state.is_of(self.path.stat())
        except OSError:
            return False


@dataclass(frozen=True, slots=True)
class Record:
    """All places of the same bytes."""

    sha256: str
    manifest: str | None
    places: tuple[Place, ...] = ()

    def to_bytes(self) -> bytes:
        """Return the canonical JSON."""
        places = [
            {
                "path": str(place.path),
                "size": place.state.size,
                "mtime_ns": place.state.mtime_ns,
                "inode": place.state.inode,
                "device": place.state.device,
                "seen": place.seen,
            }
            for place in self.places
        ]
        found = {"sha256": self.sha256, "manifest": self.manifest, "places": places}
        return sealed({"adopted": VERSION, **found})

    def with_place(self, place: Place) -> Record:
        """Return the record with this place, in front, instead of what it said of that path."""
        others = tuple(p for p in self.places if p.path != place.path)
        return replace(self, places=(place, *others))

    def without(self, path: Path) -> Record:
        """Return the record without this path."""
        return replace(self, places=tuple(p for p in self.places if p.path != path))


def get(layout: Layout, sha256: str) -> Record | None:
    """Return where files with these bytes lie; None if nothing is recorded.

    Raises:
        CorruptError: the record is damaged.
    """
    path = layout.adopted(sha256)
    try:
        fields = Fields(read_object(path), str(path))
    except FileNotFoundError:
        return None
    places = tuple(_place(found, str(path)) for found in fields.list("places"))
    return Record(fields.digest("sha256"), fields.maybe_text("manifest"), places)


def put(writer: Writer, record: Record) -> None:
    """Write a record; call it under the lock. One without places still tells that the bytes are known."""
    writer.write(writer.layout.adopted(record.sha256), record.to_bytes())


def adopt(writer: Writer, sha256: str, place: Place, manifest: str | None) -> None:
    """Note that a file with these bytes lies there; call it under the lock, and later ``settle``."""
    try:
        old = get(writer.layout, sha256)
    except CorruptError:
        old = None  # what it said will be found again
    old_manifest = None if old is None else old.manifest
    record = replace(old or Record(sha256, None), manifest=manifest or old_manifest)
    if record.with_place(place) != old:
        put(writer, record.with_place(place))


def settle(writer: Writer, sha256: str, path: Path, *, whole: bool = False) -> None:
    """Note that a path leads to these bytes, and to no others; call it under the lock, at the end.

    What lay there before tells which name a changed file belongs to, so this comes after the name.

    Args:
        writer: of the library.
        sha256: of the bytes.
        path: of a file; or, if ``whole``, of a checkpoint of several files: its folder or index.
        whole: an index is both, a file and a checkpoint of several.
    """
    hint = _hint(writer.layout, path)
    key = _WHOLE if whole else _FILE
    before = hint.get(key)
    if before == sha256:
        return
    if isinstance(before, str):
        forget(writer, before, path)
    raw = sealed(hint | {"path": str(path), key: sha256})
    writer.write(writer.layout.path_hint(_key(path)), raw, durable=False)


def forget(writer: Writer, sha256: str, path: Path) -> None:
    """Note that these bytes no longer lie there; call it under the lock."""
    with suppress(CorruptError):
        record = get(writer.layout, sha256)
        if record is not None and record.without(path) != record:
            put(writer, record.without(path))


def leave(writer: Writer, sha256: str, path: Path) -> None:
    """Note that the library took the file away: what comes to lie there is something new."""
    forget(writer, sha256, path)
    with disk_errors(writer.layout.root):
        writer.layout.path_hint(_key(path)).unlink(missing_ok=True)


def known(layout: Layout, path: Path, *, whole: bool = False) -> str | None:
    """Return the SHA-256 recorded for a path, whatever lies there now; ``whole`` as in ``settle``."""
    found = _hint(layout, path).get(_WHOLE if whole else _FILE)
    return found if isinstance(found, str) else None


def unchanged(layout: Layout, path: Path, *, read: bool = False) -> Record | None:
    """Return the record of a path whose file surely is as it was; costs a stat and two small reads.

    Args:
        layout: of the library.
        path: of the file.
        read: read a file that was too young for its time to tell; else such a one is not sure.

    Raises:
        IntegrityError: it changed while it was read.
    """
    sha256 = known(layout, path)
    record = None if sha256 is None else get(layout, sha256)
    found = () if record is None else record.places
    here = next((place for place in found if place.path == path), None)
    if here is None or not here.is_as_it_was():
        return None
    return record if here.is_settled or (read and sha256_file(path) == sha256) else None


def every(layout: Layout) -> Iterator[str]:
    """Yield the SHA-256 of all recorded files."""
    for path in sorted(layout.shelf("adopted").glob("??/*.json")):
        if len(path.stem) == 64:
            yield path.stem


def _hint(layout: Layout, path: Path) -> dict[str, Any]:
    try:
        found = read_object(layout.path_hint(_key(path)))
    except (OSError, CorruptError):
        return {}
    return found if found.get("path") == str(path) else {}


def _key(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:32]


def _place(found: Any, where: str) -> Place:
    fields = Fields(found, where)
    numbers = (fields.integer(key) for key in ("size", "mtime_ns", "inode", "device"))
    return Place(Path(fields.text("path")), State(*numbers), fields.text("seen", ""))
