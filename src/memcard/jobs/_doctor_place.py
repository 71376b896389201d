"""What may be wrong with the place a library lies in: its card, its disk, locks, writers, leftovers."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, TypeAlias

from memcard.core.atomic import disk_errors, replacing
from memcard.errors import CorruptError, UnsupportedError
from memcard.store import layout as layouts
from memcard.store.canonical import read_object, sealed
from memcard.store.layout import Layout
from memcard.store.writer import Writer, leftovers, living

Severity: TypeAlias = Literal["error", "warning", "note"]

_LITTLE: Final = 512 << 20  # bytes
_NETWORK: Final = (
    "nfs",
    "cifs",
    "smb",
    "sshfs",
    "9p",
    "afs",
    "ceph",
    "glusterfs",
    "webdav",
    "davfs",
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found.

    Attributes:
        severity: ``error``: something is lost or cannot be read; ``warning``: it may come to that;
            ``note``: good to know, and no fault.
        about: the file, name or disk.
        text: what is the matter.
        remedy: what to do.
        fix: how ``--fix`` would mend it; "" if it would not.
        fixed: whether it was mended.
    """

    severity: Severity
    about: str
    text: str
    remedy: str
    fix: str = ""
    fixed: bool = False


def place(home: Layout, *, fix: bool) -> Iterator[Finding]:
    """Look at the folder and its disk.

    Raises:
        UnsupportedError: the library is of a newer version.
        NotFoundError: there is none.
    """
    yield from _card(home, fix=fix)
    yield from _disk(home)
    yield from _locks(home)
    yield from _litter(home, fix=fix)


def _card(home: Layout, *, fix: bool) -> Iterator[Finding]:
    try:
        if layouts.exists(home) or not _has_records(home):
            layouts.check(home)
            return
        found = "is missing, though the folder has names or manifests of a library."
    except UnsupportedError:
        raise
    except CorruptError as error:
        found = str(error).removeprefix(f"{home.card}: ")
    how = "writes a new one, with a new id; the id only names the index, which is built anew"
    finding = Finding(
        "error", str(home.card), found, "memcard doctor --fix, or put it back from a backup.", how
    )
    if fix:
        _write_card(home)
        finding = replace(finding, fixed=True)
    yield finding


def _has_records(home: Layout) -> bool:
    return home.refs.is_dir() or home.shelf("manifests").is_dir()


def _write_card(home: Layout) -> None:
    """Write a new library.json; an id that can still be read is kept."""
    name = secrets.token_hex(16)
    with suppress(CorruptError, OSError):
        old = read_object(home.card).get("id")
        if isinstance(old, str) and len(old) == len(name) and old.isalnum():
            name = old
    card = {"format": layouts.FORMAT, "id": name, "version": layouts.VERSION}
    with disk_errors(home.card), replacing(home.card) as file:
        os.write(file.fileno(), sealed(card))


def _disk(home: Layout) -> Iterator[Finding]:
    root = str(home.root)
    if not _can_write(home.root):
        yield Finding(
            *("note", root, "is read-only for you: everything can be read, nothing can be added."),
            "Nothing, if that is meant. Else change its owner or its mode.",
        )
    free = shutil.disk_usage(home.root).free
    if free < _LITTLE:
        yield Finding(
            *("warning", root, f"its disk has {free / 1e6:.0f} MB left."),
            "memcard gc --days 0 empties the trash of the library; `memcard rm` and `memcard undo` work "
            "on a full disk too.",
        )


def _can_write(folder: Path) -> bool:
    read_only = getattr(os, "ST_RDONLY", 0)
    if hasattr(os, "statvfs") and os.statvfs(folder).f_flag & read_only:
        return False
    return os.access(folder, os.W_OK)


def _locks(home: Layout) -> Iterator[Finding]:
    kind = _file_system(home.root)
    if kind and any(word in kind for word in _NETWORK):
        yield Finding(
            *("warning", str(home.root), f"lies on a network share ({kind})."),
            "Let only one machine write at a time: locks between machines cannot be relied upon.",
        )
    if not _knows_locks(home):
        yield Finding(
            *("warning", str(home.lock), "its file system knows no locks."),
            "Let only one program write to this library at a time, or move it to a local disk.",
        )
    count = living(home) if _can_write(home.root) else 0
    if count:
        writers = f"{count} other memcard is" if count == 1 else f"{count} other memcards are"
        yield Finding(
            *("note", str(home.leases), f"{writers} writing to this library right now."),
            "Nothing; they wait for each other. If there should be none, look for a process that hangs.",
        )


def _file_system(folder: Path) -> str:
    """Return the kind of file system a folder is on, as Linux calls it; "" elsewhere."""
    best, kind = "", ""
    real = str(folder.resolve())
    with suppress(OSError):
        for line in Path("/proc/mounts").read_text("utf-8", errors="replace").splitlines():
            _, where, found, *_ = [*line.split(" "), "", "", ""]
            where = where.replace("\\040", " ")
            inside = real == where or real.startswith(where.rstrip("/") + "/")
            if inside and len(where) >= len(best):
                best, kind = where, found
    return kind


def _knows_locks(home: Layout) -> bool:
    """Whether locks can be taken; True where nothing can be said."""
    if os.name == "nt" or not home.lock.exists():
        return True
    import fcntl

    fd = -1
    try:
        fd = os.open(home.lock, os.O_RDONLY)
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True  # someone has it
    except OSError:
        return fd < 0  # not ours to open
    finally:
        if fd >= 0:
            os.close(fd)
    return True


def _litter(home: Layout, *, fix: bool) -> Iterator[Finding]:
    found = leftovers(home) if _can_write(home.root) else ()
    if not found:
        return
    size = sum(_size(path) for path in found)
    finding = Finding(
        *(
            "note",
            str(home.tmp),
            f"{len(found)} unfinished files of killed processes, {size} bytes.",
        ),
        "Nothing: the next command that writes removes them.",
        "removes them",
    )
    if fix:
        with Writer(home):  # sweeps
            pass
        finding = replace(finding, fixed=True)
    yield finding


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
