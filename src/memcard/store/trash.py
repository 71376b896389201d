"""What was put away and can be had back: nothing is deleted before it has lain here for a while."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Final

from memcard.core.atomic import disk_errors, fsync_folder
from memcard.errors import CorruptError, NotFoundError, UsageError
from memcard.store.canonical import Fields, read_object, sealed
from memcard.store.layout import Layout
from memcard.store.originals import Original, bring, check_free, give_back, take
from memcard.store.places import now
from memcard.store.writer import Writer

VERSION: Final = 1
_ID: Final = re.compile(r"\d{8}T\d{6}-[0-9a-f]{6}")
_RECORDS: Final = ("adopted/", "packed/")
_SHELVES: Final = frozenset(
    {"refs", "manifests", "files", "skeletons", "adopted", "packs", "packed", "cards"}
)


@dataclass(frozen=True, slots=True)
class Entry:
    """What one command put away.

    Attributes:
        name: of the entry, by which ``undo`` finds it; they sort by time.
        verb: the command: ``rm`` or ``gc``.
        title: what it was about, for people.
        at: when.
        items: where each thing was, relative to the library.
        folder: where they are now: ``folder/0``, ``folder/1`` and so on.
        originals: files of the user's, which lie there behind the items.
    """

    name: str
    verb: str
    title: str
    at: str
    items: tuple[str, ...]
    folder: Path
    originals: tuple[Original, ...] = ()

    def present(self) -> list[tuple[Path, str]]:
        """Return what really is in the trash, with where it was."""
        pairs = [(self.folder / str(i), item) for i, item in enumerate(self.items)]
        return [(path, item) for path, item in pairs if _is_plain(path)]

    def present_originals(self) -> list[tuple[Path, Original]]:
        """Return the users' files that really are in the trash, with where they were."""
        first = len(self.items)
        pairs = [(self.folder / str(first + i), one) for i, one in enumerate(self.originals)]
        return [(path, one) for path, one in pairs if _is_plain(path)]

    @property
    def is_empty(self) -> bool:
        """Whether nothing of it is in the trash."""
        return not self.present() and not self.present_originals()

    def is_back(self, layout: Layout) -> bool:
        """Whether all lies where it was: a command was stopped before its first move or after its last.

        So ``undo``, given again after it was stopped, does not take back an older command instead.
        """
        paths = [*(layout.root / item for item in self.items), *(o.path for o in self.originals)]
        return bool(paths) and all(path.exists() for path in paths)

    @property
    def nbytes(self) -> int:
        """Bytes that removing it for good would free; hard links with another name free none."""
        found = [path for path, _ in (*self.present(), *self.present_originals())]
        states = [path.stat() for path in found]
        return sum(state.st_size for state in states if state.st_nlink == 1)

    @property
    def age(self) -> float:
        """Seconds since it was put away."""
        try:
            then = datetime.fromisoformat(self.at)
        except ValueError:
            return 0.0
        return (datetime.now(UTC) - then).total_seconds()


def originals_of(layout: Layout, sha256s: Collection[str]) -> Iterator[tuple[Entry, Original]]:
    """Yield the users' files in the trash that have these bytes, each with its entry."""
    for entry in every(layout, []):
        for _, original in entry.present_originals():
            if original.sha256 in sha256s:
                yield entry, original


def put_away(writer: Writer, verb: str, title: str, paths: Sequence[Path]) -> Entry:
    """Move files of the library to the trash; call it under the lock.

    The journal comes first: a process that is killed half-way leaves what it moved on record.
    """
    layout, at = writer.layout, now()
    name = _new_name(layout, at)
    items = tuple(path.relative_to(layout.root).as_posix() for path in paths)
    entry = Entry(name, verb, title, at, items, layout.trash / name)
    facts = {"trash": VERSION, "verb": verb, "title": title, "at": at, "items": list(items)}
    writer.write(entry.folder / "journal.json", sealed(facts))
    for i, path in enumerate(paths):
        writer.move(path, entry.folder / str(i))
    return entry


def put_away_originals(
    writer: Writer,
    verb: str,
    title: str,
    originals: Sequence[Original],
    paths: Sequence[Path] = (),
) -> Entry:
    """Move files of the user's to the trash; takes the lock itself, after what may take long.

    Args:
        writer: of the library.
        verb: the command.
        title: what it is about, for people.
        originals: the files.
        paths: of the library, which go with them: names.

    Raises:
        IntegrityError: one was changed at this very moment; it and those behind it stay where they are.
        DiskError: the library is on another disk, which is full; all stay.
    """
    parts = [bring(writer, original) for original in originals]
    with writer.commit():
        layout, at = writer.layout, now()
        name = _new_name(layout, at)
        items = tuple(path.relative_to(layout.root).as_posix() for path in paths)
        entry = Entry(name, verb, title, at, items, layout.trash / name, tuple(originals))
        facts = {"trash": VERSION, "verb": verb, "title": title, "at": at, "items": list(items)}
        listed = [original.to_dict() for original in originals]
        writer.write(entry.folder / "journal.json", sealed(facts | {"originals": listed}))
        for i, path in enumerate(paths):
            writer.move(path, entry.folder / str(i))
        for i, (original, part) in enumerate(zip(originals, parts, strict=True), len(items)):
            take(writer, original, part, entry.folder / str(i))
    return entry


def _new_name(layout: Layout, at: str) -> str:
    """Return a name that sorts behind all others: two commands may be done within one second."""
    name = f"{at[:19].replace('-', '').replace(':', '')}-{datetime.now(UTC).microsecond:06x}"
    found = [p.name for p in layout.trash.iterdir()] if layout.trash.is_dir() else []
    newest = max((one for one in found if _ID.fullmatch(one)), default="")
    if name > newest:
        return name
    second, _, number = newest.partition("-")
    return f"{second}-{(int(number, 16) + 1) & 0xFFFFFF:06x}"


def every(layout: Layout, faults: list[CorruptError] | None = None) -> Iterator[Entry]:
    """Yield all entries, the oldest first. One without a journal has nothing in it.

    Raises:
        CorruptError: a journal is damaged, and ``faults`` is not there to take it.
    """
    if not layout.trash.is_dir():
        return
    for folder in sorted(layout.trash.iterdir()):
        if not _ID.fullmatch(folder.name) or folder.is_symlink() or not folder.is_dir():
            continue
        try:
            yield _read(folder)
        except FileNotFoundError:
            continue
        except CorruptError as error:
            if faults is None:
                raise
            faults.append(error)


def find(layout: Layout, name: str | None = None) -> Entry:
    """Return an entry by its name or the first letters of it; None for the newest.

    Raises:
        NotFoundError: there is none.
    """
    every_one = [e for e in every(layout, []) if e.name.startswith(name or "")]
    found = [e for e in every_one if not e.is_empty or e.is_back(layout)]
    if not found or (name and len(found) > 1):
        which = f"no entry {name!r}" if name else "nothing"
        raise NotFoundError(f"{layout.trash}: there is {which} to undo. See `memcard undo --list`.")
    return found[-1]


def undo(writer: Writer, entry: Entry) -> tuple[str, ...]:
    """Put everything of an entry back; call it under the lock. Return where.

    Raises:
        UsageError: a name or a path is taken by something else by now; nothing was moved.
    """
    root = writer.layout.root
    there = [item for _, item in entry.present() if _taken(root / item, item)]
    if there:
        raise UsageError(
            f"{', '.join(PurePosixPath(item).stem for item in there)}: the name is in use again. Remove or "
            f"rename that one first, then: memcard undo {entry.name}."
        )
    check_free(entry.present_originals(), entry.name)
    back = []
    for path, original in entry.present_originals():
        give_back(writer, path, original)
        back.append(str(original.path))
    for path, item in entry.present():
        if item.startswith(_RECORDS) and (root / item).exists():
            continue  # it was written anew since, and knows better what is where
        writer.move(path, root / item)
        back.append(item)
    remove(writer, entry)
    return tuple(back)


def remove(writer: Writer, entry: Entry) -> None:
    """Remove an entry for good; call it under the lock. The journal goes last."""
    with disk_errors(entry.folder):
        for path, _ in (*entry.present(), *entry.present_originals()):
            path.unlink()
        if entry.folder.is_dir():
            fsync_folder(entry.folder)  # what has no journal is never looked at again
        (entry.folder / "journal.json").unlink(missing_ok=True)
        with suppress(OSError):
            entry.folder.rmdir()
        fsync_folder(writer.layout.trash)


def remove_empty(layout: Layout) -> None:
    """Remove the folders of entries that were begun and never had a journal."""
    if not layout.trash.is_dir():
        return
    for folder in layout.trash.iterdir():
        if _ID.fullmatch(folder.name) and not folder.is_symlink():
            with suppress(OSError):
                folder.rmdir()  # only if it is empty


def _taken(target: Path, item: str) -> bool:
    """Whether something else has the name: for immutable things it is the same, and may be replaced."""
    return item.startswith("refs/") and target.exists()


def _read(folder: Path) -> Entry:
    path = folder / "journal.json"
    fields = Fields(read_object(path), str(path))
    items = fields.texts("items")
    _check_items(path, items)
    at, title = fields.text("at"), fields.text("title", "")
    originals = tuple(Original.read(one, str(path)) for one in fields.list("originals"))
    for original in originals:
        if not original.path.is_absolute():
            raise CorruptError(
                f"{path}: lists {str(original.path)[:80]!r}, which is no absolute path."
            )
    return Entry(folder.name, fields.text("verb"), title, at, items, folder, originals)


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _check_items(path: Path, items: Iterable[str]) -> None:
    for item in items:
        parts = PurePosixPath(item).parts
        if not parts or parts[0] not in _SHELVES or ".." in parts or "\\" in item or ":" in item:
            raise CorruptError(f"{path}: lists {item[:80]!r}, which is no file of a library.")
