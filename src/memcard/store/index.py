"""An index of a library for lists and searches: a cache that repairs itself.

The truth is the library. Whatever is wrong with the index (gone, cut off, damaged, of another version, of
another state of the library) it is built anew from there, once, and the answer is the same. Where nothing
can be written it is kept in memory. It lies in the cache folder of this machine, never in the library: SQLite
on a network share locks up.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import Final, Self, TypeAlias, TypeVar

from memcard.core.digest_cache import cache_folder
from memcard.store import index_rows
from memcard.store.index_file import IndexFile
from memcard.store.index_rows import SCHEMA, Filter, IndexRow, Sort, row_of
from memcard.store.index_words import query_words

__all__ = ["Index", "IndexRow", "Sort", "row_of"]

T = TypeVar("T")
Rows: TypeAlias = list[IndexRow]
Known: TypeAlias = Sequence[tuple[str, str, str]]
"""Name, SHA-256 and mark of each row of the index."""
Changes: TypeAlias = tuple[Iterable[IndexRow], Iterable[str]]
"""Rows that are new or changed, and names that are gone."""
_ALL: Final = -1  # SQLite's word for no limit
_FOUND: Final = 100
_BUSY_SECONDS: Final = 5


class _StaleError(Exception):
    """The index is not what it should be; never leaves this module."""


class Index:
    """Rows of one library, found fast. Safe to use from several threads and processes.

    Args:
        library_id: of the library; names the file.
        rows: gives every row there is, from the library; called when the index is built.
        changes: given what the index has, gives what is otherwise in the library now. With it an index of
            another state is brought up to date, which is much faster than building it anew.
        stamp: gives the state of the library as a short text that changes with it. An index of another
            state is built anew. The default trusts ``upsert`` and ``remove`` to be called for every change.
        folder: where the file lies; None for ``core.digest_cache.cache_folder()``. If that is switched
            off (``MEMCARD_CACHE=``), the index is kept in memory.
    """

    def __init__(
        self,
        library_id: str,
        rows: Callable[[], Iterable[IndexRow]],
        *,
        changes: Callable[[Known], Changes] | None = None,
        stamp: Callable[[], str] = str,
        folder: Path | None = None,
    ) -> None:
        self._rows, self._changes, self._stamp = rows, changes, stamp
        self._file = IndexFile(cache_folder() if folder is None else folder, library_id)
        self._library = library_id
        self._connection: sqlite3.Connection | None = None
        self._opened: tuple[int, int] | None = None
        self._lock = RLock()
        self._distrusted = False  # a change could not be written
        self.in_memory = False
        self.built = 0  # times this object built the index anew

    def list(
        self,
        *,
        sort: Sort = "name",
        descending: bool = False,
        kind: str | None = None,
        family: str | None = None,
        tags: Sequence[str] = (),
        limit: int | None = None,
        offset: int = 0,
    ) -> Rows:
        """Return rows in order, without their ``text``; equal ones by name.

        Args:
            sort: what by.
            descending: the largest first.
            kind: only of this kind.
            family: only of this family.
            tags: only with all of these, whatever their case.
            limit: at most so many; None for all.
            offset: rows to pass over.

        Raises:
            UsageError: nothing is sorted by this.
        """
        wanted, most = Filter(kind, family, tuple(tags)), _ALL if limit is None else limit
        return self._ask(
            lambda c: index_rows.select(
                c, wanted, sort, descending=descending, limit=most, offset=offset
            )
        )

    def search(
        self,
        query: str,
        *,
        sort: Sort | None = None,
        descending: bool = False,
        kind: str | None = None,
        family: str | None = None,
        tags: Sequence[str] = (),
        limit: int | None = _FOUND,
        offset: int = 0,
    ) -> Rows:
        """Return rows with words that begin with those of ``query``, all of them, in any field.

        Unless they are sorted by something, those with more of them in name and title come first, then in
        tags, then by name. A query without a word finds nothing. The other arguments are those of ``list``.
        """
        wanted, most = Filter(kind, family, tuple(tags)), _ALL if limit is None else limit
        return self._ask(
            lambda c: index_rows.select(
                *(c, wanted, sort),
                descending=descending,
                limit=most,
                offset=offset,
                words=query_words(query),
            )
        )

    def count(
        self,
        query: str | None = None,
        *,
        kind: str | None = None,
        family: str | None = None,
        tags: Sequence[str] = (),
    ) -> int:
        """Return how many rows there are; with arguments, how many ``search`` or ``list`` would give."""
        wanted = Filter(kind, family, tuple(tags))
        words = None if query is None else query_words(query)
        return self._ask(lambda c: index_rows.count(c, wanted, words))

    def upsert(self, rows: Iterable[IndexRow], *, was: str | None = None) -> None:
        """Add rows, or replace those of the same name, after the library has changed.

        Args:
            rows: what changed.
            was: the stamp from before the change. If the index is of another state, someone else's change
                is missing in it, and the next question builds it anew. None: it is not checked.
        """
        changed = tuple(rows)
        self._change(lambda c: index_rows.insert(c, changed), was)

    def remove(self, names: Iterable[str], *, was: str | None = None) -> None:
        """Take rows out by name, after they have left the library; as ``upsert`` otherwise."""
        gone = tuple(names)
        self._change(lambda c: index_rows.delete(c, gone), was)

    def notes(self) -> dict[str, str]:
        """Return what ``note`` was given, by the ids of the manifests; {} after the index was built anew."""
        return self._ask(index_rows.notes)

    def note(self, said: Mapping[str, str]) -> None:
        """Keep something that was read from manifests, so that they need not be read again.

        They never change, so it is never wrong; where it cannot be written, it is read again next time.
        """
        with self._lock, suppress(OSError, sqlite3.Error):
            if self.in_memory and self._connection is not None:
                index_rows.note(self._connection, said)
                return
            self.close()
            with self._file.locked(alone=True):
                if not self._file.intact():
                    return
                with closing(self._connect("rw")) as connection:
                    stamp = index_rows.get_meta(connection)["stamp"]
                    self._transact(connection, lambda c: index_rows.note(c, said), stamp)
                self._file.seal()

    def rebuild(self) -> int:
        """Build the index anew from the library and return the number of rows."""
        with self._lock:
            self.close()
            self._distrusted = False
            self.built += 1
            try:
                with self._file.locked(alone=True):
                    return self._build()
            except (OSError, sqlite3.Error):  # no room, no right, or a disk SQLite cannot lock
                return self._build_in_memory()

    def close(self) -> None:
        """Give back the file handle; the next question opens it again."""
        with self._lock:
            if self._connection is not None:
                with suppress(sqlite3.Error):
                    self._connection.close()
            self._connection, self.in_memory = None, False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _ask(self, question: Callable[[sqlite3.Connection], T]) -> T:
        """Answer from the index; if anything is wrong with it, from a new one."""
        with self._lock:
            with suppress(_StaleError, sqlite3.Error, OSError):
                return question(self._current())
            if not self._brought_up_to_date():
                self.rebuild()
            try:
                return question(self._current())
            except (_StaleError, sqlite3.Error, OSError):
                self.close()  # something damages the file all the time, or the library changes all the time
                self._build_in_memory()
                return question(self._open_connection())

    def _brought_up_to_date(self) -> bool:
        """Change what is otherwise in the library by now; False if that cannot be done."""
        if self._changes is None or self._distrusted or self.in_memory:
            return False
        self.close()
        with suppress(OSError, sqlite3.Error), self._file.locked(alone=True):
            if not self._file.intact():
                return False
            with closing(self._connect("rw")) as connection:
                found = index_rows.get_meta(connection)
                if found | {"stamp": ""} != self._meta(""):
                    return False
                stamp = self._stamp()  # before the rows, as in _build
                rows, gone = self._changes(index_rows.marks(connection))
                self._transact(connection, lambda c: _exchange(c, rows, gone), stamp)
            self._file.seal()
            return True
        return False

    def _current(self) -> sqlite3.Connection:
        """Return a connection to an index that fits the library.

        Raises:
            _StaleError: there is none.
        """
        if self._distrusted:
            raise _StaleError
        on_disk = self._connection is not None and not self.in_memory
        if on_disk and self._opened != self._file.identity():
            self.close()
        if self._connection is None:
            with self._file.locked(alone=False):
                if not self._file.intact():
                    raise _StaleError
                self._connection = self._connect("ro")
                self._connection.execute("PRAGMA temp_store = MEMORY")  # a sort of 10 MB
                self._opened = self._file.identity()
        if not self._fits(self._connection, self._stamp()):
            raise _StaleError
        return self._connection

    def _open_connection(self) -> sqlite3.Connection:
        assert self._connection is not None  # noqa: S101  # of an index in memory
        return self._connection

    def _fits(self, connection: sqlite3.Connection, stamp: str) -> bool:
        return index_rows.get_meta(connection) == self._meta(stamp)

    def _meta(self, stamp: str) -> dict[str, str]:
        return {"schema": str(SCHEMA), "library": self._library, "stamp": stamp}

    def _connect(self, mode: str) -> sqlite3.Connection:
        return sqlite3.connect(
            f"{self._file.path.absolute().as_uri()}?mode={mode}",
            uri=True,
            timeout=_BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,  # self._lock sees to it
        )

    def _change(self, change: Callable[[sqlite3.Connection], object], was: str | None) -> None:
        with self._lock:
            if self.in_memory:
                self.close()  # built anew by the next question
                return
            try:
                with self._file.locked(alone=True):
                    if self._file.intact():  # else the next question builds it anew
                        with closing(self._connect("rw")) as connection:
                            self._write(connection, change, was)
                        self._file.seal()
            except (OSError, sqlite3.Error):
                self._distrusted = True

    def _write(
        self,
        connection: sqlite3.Connection,
        change: Callable[[sqlite3.Connection], object],
        was: str | None,
    ) -> None:
        found = index_rows.get_meta(connection)
        current = was is None or found == self._meta(was)
        # "?" is the stamp of no library
        self._transact(connection, change, self._stamp if current else lambda: "?")

    @staticmethod
    def _transact(
        connection: sqlite3.Connection,
        change: Callable[[sqlite3.Connection], object],
        stamp: str | Callable[[], str],
    ) -> None:
        connection.execute("PRAGMA synchronous = OFF")  # a torn file does not fit its digest
        connection.execute("BEGIN IMMEDIATE")
        try:
            change(connection)
            index_rows.set_meta(connection, stamp=stamp if isinstance(stamp, str) else stamp())
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _build(self) -> int:
        with self._file.replaced() as new:
            stamp = self._stamp()  # before the rows: a change meanwhile makes it stale, never wrong
            with closing(sqlite3.connect(new, isolation_level=None)) as connection:
                count = self._fill(connection, stamp)
                connection.execute("PRAGMA journal_mode = WAL").fetchall()
        return count

    def _build_in_memory(self) -> int:
        stamp = self._stamp()
        self._connection = sqlite3.connect(
            ":memory:", isolation_level=None, check_same_thread=False
        )
        self.in_memory = True
        return self._fill(self._connection, stamp)

    def _fill(self, connection: sqlite3.Connection, stamp: str) -> int:
        connection.execute("PRAGMA journal_mode = OFF").fetchall()
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN")
        index_rows.create(connection)
        count = index_rows.insert(connection, self._rows())
        index_rows.set_meta(connection, **self._meta(stamp))
        connection.execute("COMMIT")
        return count


def _exchange(
    connection: sqlite3.Connection, rows: Iterable[IndexRow], gone: Iterable[str]
) -> None:
    index_rows.delete(connection, gone)
    index_rows.insert(connection, rows)
