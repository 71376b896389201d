"""Users' own files in the trash: put there when all they hold is packed, and given back to where they were.

A file gets its name in the trash before it loses the one it had, and the other way round on the way back. So at
each moment the bytes have a name, and nothing that has come to lie at the old path is ever overwritten.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

from memcard.core.atomic import disk_errors, fsync_folder, nameless
from memcard.core.digest import sha256_file
from memcard.errors import IntegrityError, UsageError
from memcard.store import places
from memcard.store.canonical import Fields
from memcard.store.files import NO_LINK
from memcard.store.places import Place, State
from memcard.store.writer import Writer, copy_into, sync_file

_CHUNK: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class Original:
    """One file of a user's that is in the trash.

    Attributes:
        path: where it was; absolute.
        sha256: of its bytes.
        state: as it was when its bytes were read.
        seen: when that was.
        mode: its permissions.
    """

    path: Path
    sha256: str
    state: State
    seen: str
    mode: int

    @classmethod
    def of(cls, sha256: str, place: Place) -> Self:
        """Take it from a place; the file is looked at for its permissions."""
        mode = stat.S_IMODE(place.path.stat().st_mode)
        return cls(place.path, sha256, place.state, place.seen, mode)

    @classmethod
    def read(cls, found: Any, where: str) -> Self:
        """Take it from a journal.

        Raises:
            CorruptError: it is not one.
        """
        fields = Fields(found, where)
        numbers = (fields.integer(key) for key in ("size", "mtime_ns", "inode", "device"))
        path, state = Path(fields.text("path")), State(*numbers)
        mode = stat.S_IMODE(fields.number("mode"))
        return cls(path, fields.digest("sha256"), state, fields.text("seen", ""), mode)

    def to_dict(self) -> dict[str, Any]:
        """Return it as a journal has it."""
        facts = {"sha256": self.sha256, "seen": self.seen, "mode": self.mode}
        return {"path": str(self.path), **facts, **asdict(self.state)}

    def is_at(self, path: Path) -> bool:
        """Whether a path leads to these very bytes; reads them."""
        return path.stat().st_size == self.state.size and sha256_file(path) == self.sha256


def bring(writer: Writer, original: Original) -> Path | None:
    """Give a file a second name in the library, or copy it from another disk; the first name stays.

    Returns:
        The unfinished name; None on a disk that knows no hard links: there it can only be renamed.

    Raises:
        IntegrityError: the file is no longer what was packed.
        DiskError: the library is on another disk, which is full.
    """
    part = writer.part()
    with disk_errors(part):
        try:
            os.link(original.path, part, follow_symlinks=False)
        except OSError as error:
            if error.errno not in NO_LINK:
                raise
            if original.path.stat().st_dev == writer.layout.root.stat().st_dev:
                return None
            copy_into(part, original.path)
            _check(original, part, read=True)
        sync_file(part)
    _check(original, original.path)
    return part


def take(writer: Writer, original: Original, part: Path | None, target: Path) -> None:
    """Finish what ``bring`` began: the file lies in the trash, and no longer where it was.

    Raises:
        IntegrityError: another file lies there by now; it is left alone.
    """
    _check(original, original.path)
    if part is None:
        sync_file(original.path)
        writer.move(original.path, target)
    else:
        writer.place(part, target)
        _check(original, original.path)
        with disk_errors(original.path):
            original.path.unlink()
            fsync_folder(original.path.parent)
    places.leave(writer, original.sha256, original.path)


def _check(original: Original, path: Path, *, read: bool = False) -> None:
    found = path.lstat()
    as_it_was = original.state.is_of(found) and stat.S_ISREG(found.st_mode)
    if original.is_at(path) if read else as_it_was:
        return
    raise IntegrityError(
        f"{original.path}: changed after it was packed; it is left where it is. Add it again when nothing "
        "writes to it."
    )


def check_free(pairs: Sequence[tuple[Path, Original]], entry: str) -> None:
    """See that all files can go back to where they were.

    Raises:
        UsageError: something else lies there, or a folder is missing; lists them all.
    """
    faults = []
    for path, original in pairs:
        folder = original.path.parent
        if not folder.is_dir():
            faults.append(f"{folder} is not there: make the folder or connect its disk.")
        elif os.path.lexists(original.path) and not _is_back(path, original):
            faults.append(f"{original.path} is another file by now: rename or move it.")
    if faults:
        raise UsageError(
            f"{' '.join(faults)} Then: memcard undo {entry}. Nothing was moved; `memcard export` writes "
            "the original under any other name."
        )


def give_back(writer: Writer, path: Path, original: Original) -> None:
    """Put one file of the trash back to where it was; the name in the trash stays, for the caller.

    Raises:
        IntegrityError: the file in the trash is damaged.
        UsageError: something came to lie there at this very moment.
    """
    if not os.path.lexists(original.path) or not _is_back(path, original):
        with disk_errors(original.path):
            try:
                _give(path, original)
            except FileExistsError:
                raise UsageError(
                    f"{original.path}: another file came to lie there. Move it, then undo again."
                ) from None
            fsync_folder(original.path.parent)
    now = State.of(original.path.stat())
    seen = original.seen if original.state == now else places.now()
    with_bytes = Place(original.path, now, seen)
    places.adopt(writer, original.sha256, with_bytes, None)
    places.settle(writer, original.sha256, original.path)


def _give(path: Path, original: Original) -> None:
    """Give a file of the trash its old name.

    Raises:
        FileExistsError: something lies there.
        IntegrityError: the file is damaged.
    """
    if _linked(path, original.path):
        return
    if path.stat().st_dev == original.path.parent.stat().st_dev:  # a disk without hard links
        _refuse_to_replace(original.path)
        path.rename(original.path)
        return
    with nameless(original.path.parent, original.path.name) as (file, settle):
        with path.open("rb", buffering=0) as source:
            while block := source.read(_CHUNK):
                file.write(block)
        part = Path(file.name)
        if not original.is_at(part):
            raise IntegrityError(
                f"{path}: is not what was put there; its disk may be failing. `memcard export` writes "
                f"the file from the packs; it was {original.path}."
            )
        part.chmod(original.mode)
        os.utime(part, ns=(original.state.mtime_ns, original.state.mtime_ns))
        os.fsync(file.fileno())
        if not _linked(part, original.path):
            _refuse_to_replace(original.path)
            settle(original.path)


def _linked(path: Path, new: Path) -> bool:
    """Give a file a second name; unlike a rename that replaces nothing. False: the disk cannot."""
    try:
        os.link(path, new)
    except OSError as error:
        if error.errno not in NO_LINK:
            raise
        return False
    return True


def _refuse_to_replace(path: Path) -> None:
    if os.path.lexists(path):
        raise FileExistsError(path)


def _is_back(path: Path, original: Original) -> bool:
    """Whether the old path leads to the original again: an undo was stopped, or somebody put it back."""
    there = original.path
    if there.is_symlink() or not there.is_file():
        return False
    return (path.exists() and path.samefile(there)) or original.is_at(there)
