"""Where everything lies in the folder of a library, and whether this memcard may use it."""

from __future__ import annotations

import os
import re
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from memcard.core.atomic import disk_errors, fsync_folder, replacing
from memcard.errors import CorruptError, NotFoundError, UnsupportedError
from memcard.store.canonical import Fields, read_object, sealed

VARIABLE: Final = "MEMCARD_HOME"
VERSION: Final = 2  # 1: manifests as plain JSON only
FORMAT: Final = "memcard-library"
_ID: Final = re.compile(r"[0-9a-f]{32}")


def default_home() -> Path:
    """Return ``$MEMCARD_HOME``, or the platform's folder for data of programs.

    Raises:
        NotFoundError: the account has no home, and the variable is not set.
    """
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser()
    try:
        home = Path.home()
    except RuntimeError:
        raise NotFoundError(
            f"this account has no home folder to keep a library in. Set {VARIABLE} to a folder."
        ) from None
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData/Local") / "memcard"
    if sys.platform == "darwin":
        return home / "Library" / "Application Support" / "memcard"
    given = Path(os.environ.get("XDG_DATA_HOME") or "")
    return (given if given.is_absolute() else home / ".local" / "share") / "memcard"


@dataclass(frozen=True, slots=True)
class Layout:
    """The folders and files of one library; nothing is made or read here."""

    root: Path

    @property
    def card(self) -> Path:
        """The file that makes the folder a library."""
        return self.root / "library.json"

    @property
    def lock(self) -> Path:
        """Locked while names and records change."""
        return self.root / "lock"

    @property
    def refs(self) -> Path:
        """Folder of the names."""
        return self.root / "refs"

    @property
    def leases(self) -> Path:
        """Folder of the living writers."""
        return self.root / "leases"

    @property
    def tmp(self) -> Path:
        """Folder of unfinished files."""
        return self.root / "tmp"

    @property
    def trash(self) -> Path:
        """Folder of what was put away."""
        return self.root / "trash"

    @property
    def packs(self) -> Path:
        """Folder of the packs."""
        return self.root / "packs"

    def shelf(self, name: str) -> Path:
        """Return ``manifests``, ``adopted``, ``files`` or ``skeletons``."""
        return self.root / name

    def manifest(self, name: str) -> Path:
        """Return the file of a manifest as canonical JSON; see ``manifest.path_of``."""
        return self.root / "manifests" / name[:2] / f"{name}.json"

    def short_manifest(self, name: str) -> Path:
        """Return the file of a manifest in the short form."""
        return self.root / "manifests" / name[:2] / f"{name}.zst"

    def adopted(self, sha256: str) -> Path:
        """Return the record of where files with these bytes lie."""
        return self.root / "adopted" / sha256[:2] / f"{sha256}.json"

    def path_hint(self, key: str) -> Path:
        """Return the file that leads from a path's digest to a record."""
        return self.root / "adopted" / "paths" / key[:2] / f"{key}.json"

    def file(self, sha256: str) -> Path:
        """Return the library's own file with these bytes."""
        return self.root / "files" / sha256[:2] / sha256

    def file_state(self, sha256: str) -> Path:
        """Return the record of how that file was when it was taken."""
        return self.root / "files" / sha256[:2] / f"{sha256}.json"

    def skeleton(self, blake3: str) -> Path:
        """Return the file of a skeleton."""
        return self.root / "skeletons" / blake3[:2] / f"{blake3}.zst"


def exists(layout: Layout) -> bool:
    """Whether there is a library, of whatever version."""
    return layout.card.is_file()


def check(layout: Layout) -> str:
    """Return the id of the library that is there.

    Raises:
        NotFoundError: there is none.
        UnsupportedError: it is of a newer version.
        CorruptError: its card is damaged.
    """
    try:
        found = read_object(layout.card)
    except FileNotFoundError:
        if layout.refs.is_dir() or layout.shelf("manifests").is_dir():
            raise CorruptError(_lost(layout)) from None
        raise NotFoundError(
            f"{layout.root}: is no library yet. `memcard add FILE` makes one; or set {VARIABLE}."
        ) from None
    fields = Fields(found, str(layout.card))
    if fields.text("format") != FORMAT:
        raise CorruptError(f"{layout.card}: is not the card of a library. Choose another folder.")
    if (version := fields.number("version")) > VERSION:
        raise UnsupportedError(
            f"{layout.root}: is a library of version {version}; this memcard knows {VERSION}. "
            "Use the newer memcard that made it: pip install --upgrade memcard."
        )
    if not _ID.fullmatch(name := fields.text("id")):
        raise CorruptError(f"{layout.card}: {name[:80]!r} is no id. Put it back from a backup.")
    return name


def _make(folder: Path) -> None:
    """Make a folder and those above it, durably."""
    if not folder.is_dir():
        _make(folder.parent)
        folder.mkdir(mode=0o755, exist_ok=True)
        fsync_folder(folder.parent)


def _lost(layout: Layout) -> str:
    return (
        f"{layout.card}: is missing, but the folder has names or manifests of a library. Put that file back "
        "from a backup, or let `memcard doctor --fix` write a new one; or choose another folder."
    )


def create(layout: Layout) -> str:
    """Make the folder a library if it is none; return its id.

    Raises:
        DiskError: the folder cannot be made or written.
        UnsupportedError, CorruptError: as ``check``; of a library that is there.
    """
    if exists(layout):
        return check(layout)
    if layout.refs.exists() or layout.shelf("manifests").exists():
        raise CorruptError(_lost(layout))
    with disk_errors(layout.root):
        _make(layout.root)
    _write_card(layout, secrets.token_hex(16))
    return check(layout)


def raise_version(layout: Layout) -> None:
    """Make a library of an older version one of this version; it keeps its id.

    Raises:
        DiskError: its card cannot be written; it is as it was.
        NotFoundError, UnsupportedError, CorruptError: as ``check``.
    """
    name = check(layout)
    if read_object(layout.card)["version"] < VERSION:
        _write_card(layout, name)


def _write_card(layout: Layout, name: str) -> None:
    card = {"format": FORMAT, "id": name, "version": VERSION}
    with disk_errors(layout.root), replacing(layout.card) as file:
        os.write(file.fileno(), sealed(card))
