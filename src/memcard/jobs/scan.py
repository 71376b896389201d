"""Look through folders of models: what is there, what the library knows, and what is new."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from memcard.architectures import identify
from memcard.core.progress import Event, Listener, Progress, silent
from memcard.errors import FormatError, IntegrityError, NotFoundError
from memcard.formats import open_file
from memcard.jobs._library_members import members
from memcard.jobs._walk import below, with_loose
from memcard.jobs.add import add, same_as_before
from memcard.store import places
from memcard.store.layout import Layout, exists
from memcard.store.whereabouts import copies
from memcard.store.writer import Writer

State: TypeAlias = Literal["new", "known", "changed", "moved", "unreadable"]


@dataclass(frozen=True, slots=True)
class Scanned:
    """One checkpoint that was found.

    Attributes:
        path: of the file, index or folder.
        state: ``known``: in the library and unchanged; ``changed`` since it was added; ``moved``: its
            old place is empty; ``new``; ``unreadable``.
        size: bytes of its files.
        format, kind, architecture: what it is, from its header; empty if it was not read.
        name: in the library; None if it is not there.
        note: why it is unreadable, or where it was before it was moved.
    """

    path: Path
    state: State
    size: int = 0
    format: str = ""
    kind: str = ""
    architecture: str | None = None
    name: str | None = None
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        return asdict(self) | {"path": str(self.path)}


def scan(
    home: Layout,
    folders: Iterable[str | Path],
    *,
    hashed: bool = False,
    progress: Listener = silent,
) -> list[Scanned]:
    """List the checkpoints below some folders; reads headers only.

    A file that was less than two seconds old when it was added is read, for its time does not tell whether it is
    the same. No link that leads out of its folder is followed. Files are looked at, never changed.

    Args:
        home: the library; it need not be there.
        folders: where to look.
        hashed: also read what is new and add it, where it is. What is done stays done when this is
            interrupted: the next scan goes on from there.
        progress: hears how many checkpoints are done.

    Raises:
        NotFoundError: a folder is not there.
        DiskError, LockedError: the library cannot be written.
    """
    roots = [Path(folder).expanduser().absolute() for folder in folders]
    if missing := [str(root) for root in roots if not root.exists()]:
        raise NotFoundError(f"{', '.join(missing)}: there is no such folder.")
    todo = list(dict.fromkeys(path for root in roots for path in _inside(root)))
    found = []
    for done, path in enumerate(todo):
        progress(Progress("scan", done, len(todo), "files"))
        seen = _look(home, path)
        if hashed and seen.state in ("new", "changed"):
            seen = _added(home, seen, _only_bytes(progress))
        found.append(seen)
    progress(Progress("scan", len(todo), len(todo), "files"))
    return found


def _inside(root: Path) -> Iterator[Path]:
    """Yield checkpoints below a folder whose files really lie below it."""
    real = root.resolve()
    for path in with_loose(below([root])):
        where = path.resolve()
        if where == real or real in where.parents:
            yield path


def _look(home: Layout, path: Path) -> Scanned:
    try:
        checkpoint = open_file(path)
    except (FormatError, PermissionError) as error:
        return Scanned(path, "unreadable", note=str(error))
    try:
        identity = identify(checkpoint.specs, checkpoint.metadata)
        kind = "delta" if "memcard.delta.mode" in checkpoint.metadata else identity.kind
        facts = (checkpoint.format, kind, identity.architecture)
    finally:
        checkpoint.close()
    size = sum(file.stat().st_size for file in members(path).values())
    if not exists(home):
        return Scanned(path, "new", size, *facts)
    try:
        same = same_as_before(home, path, read=True)
    except IntegrityError:  # it changes while it is read
        same = None
    if same is not None:
        return Scanned(path, "known", size, *facts, name=same.name)
    before = any(places.known(home, path, whole=whole) for whole in (False, True))
    return Scanned(path, "changed" if before else "new", size, *facts)


def _added(home: Layout, seen: Scanned, progress: Listener) -> Scanned:
    try:
        (added,) = add(home, [seen.path], progress=progress)
    except (FormatError, IntegrityError) as error:
        return replace(seen, state="unreadable", note=str(error))
    if added.status == "another copy" and (old := _moved_from(home, added.sha256)) is not None:
        with Writer(home) as writer, writer.commit():
            places.leave(writer, added.sha256, old)
        return replace(seen, state="moved", name=added.name, note=f"was at {old}")
    state: State = "known" if added.status in ("unchanged", "another copy") else seen.state
    return replace(seen, state=state, name=added.name)


def _moved_from(home: Layout, sha256: str) -> Path | None:
    """Return the place that is empty now. A disk that is not connected is no empty place."""
    for copy in copies(home, sha256):
        if copy.fitness == "missing" and not copy.owned and copy.path.parent.is_dir():
            return copy.path
    return None


def _only_bytes(progress: Listener) -> Listener:
    def hear(event: Event) -> None:
        if isinstance(event, Progress):
            event = replace(event, phase="read")
        progress(event)

    return hear
