"""Files that are the library's own: taken by reflink, hard link, rename or copy, and checked before use."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from memcard.core.atomic import disk_errors, fsync_folder
from memcard.core.digest import sha256_file
from memcard.core.progress import Listener, Progress, silent
from memcard.errors import CorruptError, IntegrityError, UsageError
from memcard.store.canonical import Fields, read_object, sealed
from memcard.store.layout import Layout
from memcard.store.places import Place, State
from memcard.store.writer import Writer, copy_into, sync_file

How: TypeAlias = Literal["reflink", "hardlink", "move", "copy"]

VERSION: Final = 1
_FICLONE: Final = 0x40049409  # Linux: _IOW(0x94, 9, int)
_READ_ONLY: Final = 0o444
# Another file system, one without hard links, or a rule of the system against them.
NO_LINK: Final = frozenset(
    {errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES}
)


@dataclass(frozen=True, slots=True)
class Owned:
    """A file of the library.

    Attributes:
        path: where it lies.
        how: it came; a ``hardlink`` has another name outside.
        size: in bytes.
        mtime_ns: when it was written, at the time it was taken.
    """

    path: Path
    how: str
    size: int
    mtime_ns: int

    def check(self) -> None:
        """Raise IntegrityError if the file is not as it was taken.

        The time tells only of a hard link, which has a name where others write: a library that was
        copied to another disk has new times.
        """
        found = self.path.stat()
        linked = self.how == "hardlink"
        if found.st_size == self.size and (found.st_mtime_ns == self.mtime_ns or not linked):
            return
        who = (
            "It is a hard link, and someone edited the file it is linked to."
            if linked
            else "Something wrote to the library's folder."
        )
        raise IntegrityError(
            f"{self.path}: has {found.st_size} bytes written at {found.st_mtime_ns} ns; it was taken with "
            f"{self.size} bytes written at {self.mtime_ns} ns. {who} It is not used. Add the original "
            "again: memcard add FILE."
        )


def get(layout: Layout, sha256: str) -> Owned | None:
    """Return the library's own file with these bytes; None if it has none. Not yet checked."""
    path = layout.file(sha256)
    if not path.is_file():
        return None
    try:
        fields = Fields(read_object(layout.file_state(sha256)), str(layout.file_state(sha256)))
        return Owned(path, fields.text("how"), fields.number("size"), fields.integer("mtime_ns"))
    except (FileNotFoundError, CorruptError):
        return None  # taken by a process that was killed; it will be taken again


def renew(writer: Writer, sha256: str) -> None:
    """Note the present state of a file of ours whose bytes were just found to be right."""
    if (owned := get(writer.layout, sha256)) is not None:
        _note(writer, sha256, State.of(owned.path.stat()), owned.how)


def note(writer: Writer, sha256: str, how: How) -> None:
    """Note that a file of ours was written anew with these bytes, which were checked."""
    _note(writer, sha256, State.of(writer.layout.file(sha256).stat()), how)


def take(
    writer: Writer, sha256: str, place: Place, how: How, progress: Listener = silent
) -> Owned | None:
    """Make a file the library's; the old name stays (``let_go`` removes it).

    Args:
        writer: of the library.
        sha256: of the bytes at ``place``.
        place: of the file as it was when it was hashed.
        how: ``reflink`` and ``hardlink`` give None where the file system cannot. ``move`` is a
            hard link, or a copy where there is none. A copy is hashed before it counts.
        progress: hears of copying.

    Raises:
        IntegrityError: the file is no longer what was hashed.
        DiskError: the disk is full, read-only or failing.
    """
    old = get(writer.layout, sha256)
    # Before the user's file goes away, ours is read: its state alone would not tell of rot.
    if old is not None and _is_sound(old) and (how != "move" or sha256_file(old.path) == sha256):
        return old
    part = writer.part()
    with disk_errors(part):
        done = _linked(part, place.path, how)
        if done is None and how in ("reflink", "hardlink"):
            return None
        if done is None and how == "move" and _same_disk(place.path, writer.layout.root):
            return _renamed(writer, sha256, place)
        if done is None:
            _copied(part, sha256, place, progress)
            done = "copy"
        elif done == "hardlink":
            sync_file(part)
        if not place.state.is_of(place.path.stat()):
            part.unlink()
            raise IntegrityError(
                f"{place.path}: changed after it was read. Add it again when nothing writes to it."
            )
        if done != "hardlink":
            part.chmod(_READ_ONLY)
    return _keep(writer, part, sha256, done)


def let_go(writer: Writer, owned: Owned, place: Place) -> None:
    """Remove the outside name of a file that the library has taken: the end of a move.

    Raises:
        IntegrityError: there is another file by now; it is left alone.
        UsageError: the path is a link; only its target is a file to move.
    """
    if place.path.is_symlink():
        raise UsageError(f"{place.path}: is a link. Name the file it leads to.")
    if not place.path.exists():
        return  # renamed
    found = place.path.stat()
    if not place.state.is_of(found):
        raise IntegrityError(f"{place.path}: changed after it was read; it is left where it is.")
    with disk_errors(place.path):
        place.path.unlink()
        fsync_folder(place.path.parent)
    if owned.path.stat().st_nlink == 1:  # else it has a third name, through which it can be edited
        with suppress(OSError):
            owned.path.chmod(_READ_ONLY)
        _note(writer, owned.path.name, State.of(owned.path.stat()), "move")


def _linked(part: Path, source: Path, how: How) -> str | None:
    """Give the bytes a second name without copying them; None where that cannot be."""
    if how == "reflink":
        return "reflink" if _reflinked(part, source) else None
    if how == "copy":
        return None
    try:
        # of the file itself, where the path is a link
        os.link(source.resolve(), part)
    except OSError as error:
        if error.errno in NO_LINK:
            return None
        raise
    return "hardlink"


def _reflinked(part: Path, source: Path) -> bool:
    try:
        import fcntl
    except ImportError:
        return False
    with source.open("rb") as old:
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            fcntl.ioctl(fd, _FICLONE, old.fileno())
            os.fsync(fd)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EIO):
                raise
            part.unlink()
            return False
        finally:
            os.close(fd)
    return True


def _copied(part: Path, sha256: str, place: Place, progress: Listener) -> None:
    size = place.state.size
    copy_into(part, place.path, lambda done: progress(Progress("copy", done, size)))
    if sha256_file(part, progress) != sha256:
        part.unlink()
        raise IntegrityError(
            f"{place.path}: changed while it was copied. Add it again when nothing writes to it."
        )


def _keep(writer: Writer, part: Path, sha256: str, how: str) -> Owned:
    """Note the state, then give the part its name: a file without its state does not count."""
    owned = _note(writer, sha256, State.of(part.stat()), how)
    writer.place(part, owned.path)
    return owned


def _renamed(writer: Writer, sha256: str, place: Place) -> Owned:
    """Move a file on a disk that knows no hard links."""
    if place.path.is_symlink():
        raise UsageError(f"{place.path}: is a link. Name the file it leads to.")
    sync_file(place.path)
    state = State.of(place.path.stat())
    if state != place.state:
        raise IntegrityError(f"{place.path}: changed after it was read; it is left where it is.")
    owned = _note(writer, sha256, state, "move")
    writer.move(place.path, owned.path)
    return owned


def _same_disk(path: Path, root: Path) -> bool:
    return path.stat().st_dev == root.stat().st_dev


def _note(writer: Writer, sha256: str, state: State, how: str) -> Owned:
    facts = {"file": VERSION, "how": how, "size": state.size, "mtime_ns": state.mtime_ns}
    writer.write(writer.layout.file_state(sha256), sealed(facts))
    return Owned(writer.layout.file(sha256), how, state.size, state.mtime_ns)


def _is_sound(owned: Owned) -> bool:
    try:
        owned.check()
    except (OSError, IntegrityError):
        return False
    return stat.S_ISREG(owned.path.stat().st_mode)
