"""Digests that need not be computed twice: kept by path, device, inode, size and both times of a file.

A file is believed to be unchanged while all of these are. Two writes within one tick of the disk's clock
would look like one, so a file that changed less than two seconds before it was read is not kept (git
does the same with its index). The content of a damaged disk is not noticed: who wants to know reads the
file, as ``memcard inspect --digests`` does.

The cache is one SQLite file, safe for several processes. It holds nothing that cannot be computed
again: a broken one is replaced, and one that cannot be written is done without.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from memcard.core.digest import digests_file
from memcard.core.progress import Listener, silent

if TYPE_CHECKING:
    import sqlite3

FEWEST: Final = 16 << 20  # bytes; a smaller file is hashed in the time it takes to open the cache
MARGIN: Final = 2_000_000_000  # ns; FAT counts time in steps of two seconds
VARIABLE: Final = "MEMCARD_CACHE"
_NAME: Final = "digests-1.sqlite"  # the number is that of the table
_MOST: Final = 50_000  # rows of about 250 bytes
_PATIENCE: Final = 2.0  # seconds to wait for another process
_TABLE: Final = (
    "CREATE TABLE IF NOT EXISTS digests (path BLOB, name TEXT, state TEXT, value TEXT,"
    " PRIMARY KEY (path, name))"
)
_HEX: Final = re.compile(r"[0-9a-f]{8,64}")


def cache_folder() -> Path | None:
    """Return the folder for what can be made again: ``MEMCARD_CACHE``, or the platform's own place.

    None if that variable is set to nothing: then nothing is kept on the disk.
    """
    if (named := os.environ.get(VARIABLE)) is not None:
        return Path(named).expanduser() if named else None
    try:
        home = Path.home()
    except RuntimeError:  # an account without a home
        return None
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData/Local") / "memcard" / "Cache"
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "memcard"
    given = Path(os.environ.get("XDG_CACHE_HOME") or "")
    return (given if given.is_absolute() else home / ".cache") / "memcard"


@dataclass(frozen=True, slots=True)
class State:
    """What a file system tells about a file without reading it; equal states mean equal contents."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, path: Path) -> Self:
        """Ask the file system.

        Raises:
            OSError: it cannot say.
        """
        stat = path.stat()
        return cls(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)

    def is_settled(self) -> bool:
        """Tell whether a change from now on must show in the times."""
        return time.time_ns() - max(self.mtime_ns, self.ctime_ns) > MARGIN

    def __str__(self) -> str:
        return f"{self.device}:{self.inode}:{self.size}:{self.mtime_ns}:{self.ctime_ns}"


class DigestCache:
    """Digests of files, in this process for all and on the disk for large ones. From any thread."""

    def __init__(self, folder: Path | None, *, fewest: int = FEWEST) -> None:
        """Use a cache.

        Args:
            folder: where its file is or shall be; None keeps everything in this process.
            fewest: bytes of a file whose digests go to the disk.
        """
        self._path = None if folder is None else folder / _NAME
        self._fewest = fewest
        self._here: dict[tuple[bytes, str], tuple[State, str]] = {}

    def digests(
        self,
        path: Path,
        *,
        only: Collection[str],
        data_offset: int | None = None,
        progress: Listener = silent,
    ) -> dict[str, str]:
        """Return digests as ``digests_file`` does; reads the file only for those that are not known.

        Raises:
            IntegrityError: the file changed while it was read.
        """
        found = self.find(path, only)
        if missing := [name for name in only if name not in found]:
            found |= self.fresh(path, only=missing, data_offset=data_offset, progress=progress)
        return {name: found[name] for name in only if name in found}

    def fresh(
        self,
        path: Path,
        *,
        only: Collection[str],
        data_offset: int | None = None,
        progress: Listener = silent,
    ) -> dict[str, str]:
        """Return digests of what is really in the file, whatever is known; and keep them.

        Raises:
            IntegrityError: the file changed while it was read.
        """
        before = State.of(path)
        settled = before.is_settled()
        found = digests_file(path, data_offset=data_offset, only=only, progress=progress)
        if settled:
            self.keep(path, before, found)
        return found

    def sha256(self, path: Path, progress: Listener = silent) -> str:
        """Return the SHA-256 of a whole file; as ``digests``."""
        return self.digests(path, only=("sha256",), progress=progress)["sha256"]

    def find(self, path: Path, names: Collection[str]) -> dict[str, str]:
        """Return what is known of a file in its present state."""
        key, state = _key(path), State.of(path)
        here = {name: self._here.get((key, name)) for name in names}
        found = {name: kept[1] for name, kept in here.items() if kept and kept[0] == state}
        missing = [name for name in names if name not in found]
        if not missing or self._path is None or state.size < self._fewest:
            return found
        kept_there = self._read(key, str(state))
        for name in missing:
            if name in kept_there:
                found[name] = kept_there[name]
                self._here[key, name] = state, kept_there[name]
        return found

    def keep(self, path: Path, state: State, found: Mapping[str, str]) -> None:
        """Keep digests of a file that was settled in this state before it was read.

        Nothing is kept if it is in another state by now.
        """
        if State.of(path) != state:
            return
        key = _key(path)
        for name, value in found.items():
            self._here[key, name] = state, value
        if self._path is None or state.size < self._fewest:
            return
        rows = [(key, name, str(state), value) for name, value in found.items()]
        with suppress(OSError):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self._write(rows):
                self._write(rows)  # what was there was broken; now it is gone

    def _read(self, key: bytes, state: str) -> dict[str, str]:
        if self._path is None or not self._path.is_file():
            return {}
        query = "SELECT name, value FROM digests WHERE path = ? AND state = ?"
        with self._opened() as database:
            rows = database.execute(query, (key, state)).fetchall()
            return {
                name: value
                for name, value in rows
                if isinstance(value, str) and _HEX.fullmatch(value)
            }
        return {}

    def _write(self, rows: list[tuple[bytes, str, str, str]]) -> bool:
        """Write rows. False: the file was broken and is removed, so it is worth another try."""
        with self._opened() as database:
            database.execute(_TABLE)
            database.executemany("INSERT OR REPLACE INTO digests VALUES (?, ?, ?, ?)", rows)
            # A replaced row gets a new number, so the lowest numbers are the oldest knowledge.
            database.execute(
                "DELETE FROM digests WHERE rowid <= (SELECT max(rowid) FROM digests) - ?", (_MOST,)
            )
            database.commit()
            return True
        return self._path is None or self._path.exists()

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """Open the database; one that is broken is removed, and no error leaves this."""
        import sqlite3

        try:
            with closing(sqlite3.connect(str(self._path), timeout=_PATIENCE)) as database:
                yield database
        except sqlite3.OperationalError:
            return  # locked for long, read-only, full: go without
        except sqlite3.DatabaseError:
            for end in ("", "-journal"):
                with suppress(OSError):
                    Path(f"{self._path}{end}").unlink(missing_ok=True)


def _key(path: Path) -> bytes:
    return os.fsencode(path.resolve())
