"""The tables of the index and what is asked of them: plain SQL, no state."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from memcard.core.card import Card
from memcard.errors import UsageError
from memcard.store.index_words import fold, name_words, plain_words

SCHEMA: Final = 3  # another number is another file name; raise it with every change below

Sort: TypeAlias = Literal["name", "added", "size", "kind", "family"]
_SORTS: Final = {
    "name": "folded",
    "added": "added",
    "size": "size",
    "kind": "kind",
    "family": "family",
}
_BREAK: Final = "\x1f"  # the unit separator of ASCII: in no tag
_COLUMNS: Final = (
    "manifest,name,sha256,kind,family,size,title,tags,trigger_words,'',added,format,versions,mark"
)
_TABLES: Final = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE row (
    folded TEXT NOT NULL, name TEXT NOT NULL, id INTEGER NOT NULL UNIQUE, manifest TEXT NOT NULL,
    sha256 TEXT NOT NULL, kind TEXT NOT NULL, family TEXT NOT NULL, size INTEGER NOT NULL,
    title TEXT NOT NULL, tags TEXT NOT NULL, trigger_words TEXT NOT NULL, added REAL NOT NULL,
    tag_keys TEXT NOT NULL, format TEXT NOT NULL, versions INTEGER NOT NULL, mark TEXT NOT NULL,
    PRIMARY KEY (folded, name)
) WITHOUT ROWID;
CREATE TABLE note (manifest TEXT PRIMARY KEY, said TEXT NOT NULL) WITHOUT ROWID;
"""  # without rowid: rows lie in the order of their names, and a list of all takes half the time
_FTS: Final = (
    "CREATE VIRTUAL TABLE words USING fts5(head, tags, body, "
    "tokenize = 'unicode61 remove_diacritics 0')"
)
_NO_FTS: Final = "CREATE TABLE words (rowid INTEGER PRIMARY KEY, head TEXT, tags TEXT, body TEXT)"


@dataclass(slots=True)
class IndexRow:
    """One checkpoint of a library, as lists show it.

    Not frozen: 20,000 of these are made at once, and a frozen one takes three times as long.

    Attributes:
        manifest: id of the manifest; empty while the file was not hashed.
        name: its ref; unique.
        sha256: of the file, 64 hex digits, or empty.
        kind: ``checkpoint``, ``lora``, ``vae``, …; empty if unknown.
        family: name of the architecture; empty if unknown.
        size: bytes.
        title: as on the card.
        tags: as on the card.
        trigger_words: as on the card.
        text: what else to search in; it is not given back.
        added: when it came to the library, seconds since 1970.
        format: of the file.
        versions: how many the name has had.
        mark: tells whether the row is as the library is now; see ``Index``.
    """

    manifest: str
    name: str
    sha256: str
    kind: str
    family: str
    size: int
    title: str = ""
    tags: tuple[str, ...] = ()
    trigger_words: tuple[str, ...] = ()
    text: str = ""
    added: float = 0.0
    format: str = ""
    versions: int = 1
    mark: str = ""


def row_of(
    card: Card,
    *,
    manifest: str,
    name: str,
    sha256: str,
    kind: str,
    family: str,
    size: int,
    added: float,
) -> IndexRow:
    """Return the row of a checkpoint; from its card come the title, the tags and the text to search in."""
    stated = (
        *(card.description, card.purpose, card.remarks, card.author, card.version),
        *(card.base_model, card.license),
    )
    return IndexRow(
        manifest=manifest,
        name=name,
        sha256=sha256,
        kind=kind,
        family=family,
        size=size,
        title=card.title or "",
        tags=card.tags,
        trigger_words=card.trigger_words,
        text="\n".join([*(text for text in stated if text), *card.hashes.values()]),
        added=added,
    )


@dataclass(frozen=True, slots=True)
class Filter:
    """Which rows are asked for; all that is given must hold.

    Attributes:
        kind: exactly this kind.
        family: exactly this family.
        tags: all of these, whatever their case.
    """

    kind: str | None = None
    family: str | None = None
    tags: tuple[str, ...] = ()


def create(connection: sqlite3.Connection) -> None:
    """Make the tables; without FTS5 in this SQLite a plain table takes its place."""
    for statement in _TABLES.split(";"):
        connection.execute(statement)  # executescript would end the transaction
    connection.execute(_FTS if _has_fts() else _NO_FTS)


def _has_fts() -> bool:
    """Whether this SQLite was built with FTS5; asked elsewhere, a failed attempt leaves half a table."""
    with closing(sqlite3.connect(":memory:")) as connection:
        try:
            connection.execute(_FTS)
        except sqlite3.OperationalError:
            return False
    return True


def insert(connection: sqlite3.Connection, rows: Iterable[IndexRow]) -> int:
    """Add rows, or replace those of the same name; the transaction is the caller's."""
    count = 0
    for row in rows:
        delete(connection, (row.name,))
        tags, triggers = _BREAK.join(row.tags), _BREAK.join(row.trigger_words)
        keys = "".join(f"{_BREAK}{fold(tag)}" for tag in row.tags) + _BREAK
        words = (
            name_words((row.name, row.title)),
            name_words((*row.tags, *row.trigger_words, row.kind, row.family)),
            plain_words((row.text, row.sha256, row.format)),
        )
        made = connection.execute("INSERT INTO words (head,tags,body) VALUES (?,?,?)", words)
        start = (fold(row.name), row.name, made.lastrowid, row.manifest, row.sha256, row.kind)
        connection.execute(
            "INSERT INTO row VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (
                *(*start, row.family, row.size, row.title, tags, triggers, row.added, keys),
                *(row.format, row.versions, row.mark),
            ),
        )
        count += 1
    return count


def delete(connection: sqlite3.Connection, names: Iterable[str]) -> None:
    """Remove rows; names that are not there are passed over."""
    for name in names:
        found = connection.execute(
            "SELECT id FROM row WHERE folded = ? AND name = ?", (fold(name), name)
        ).fetchone()
        if found:
            connection.execute("DELETE FROM words WHERE rowid = ?", found)
            connection.execute("DELETE FROM row WHERE id = ?", found)


def marks(connection: sqlite3.Connection) -> list[tuple[str, str, str]]:
    """Return name, SHA-256 and mark of every row."""
    return connection.execute("SELECT name, sha256, mark FROM row").fetchall()


def select(
    connection: sqlite3.Connection,
    wanted: Filter,
    sort: Sort | None,
    *,
    descending: bool,
    limit: int,
    offset: int,
    words: Sequence[str] | None = None,
) -> list[IndexRow]:
    """Return rows in order; equal ones by name.

    Args:
        connection: to the index.
        wanted: which rows.
        sort: what by; None: those with more of the words in their name and title first, then in their tags.
            That order is ours, not that of FTS5's bm25, so that it is the same without FTS5.
        descending: the largest first.
        limit: at most so many; -1 for all.
        offset: rows to pass over.
        words: of a query, folded; only rows that have words beginning with each of them. None: any row.

    Raises:
        UsageError: nothing is sorted by this.
    """
    if sort is not None and sort not in _SORTS:
        raise UsageError(f"nothing is sorted by {sort!r}; there are: {', '.join(_SORTS)}.")
    if words is not None and not words:
        return []
    where, values = _where(connection, wanted, words)
    order, ranks = _order(connection, sort, words or (), "DESC" if descending else "ASC")
    found = connection.execute(
        f"SELECT {_COLUMNS} FROM row WHERE {where} "  # noqa: S608  # constants of this module
        f"ORDER BY {order} LIMIT ? OFFSET ?",
        (*values, *ranks, limit, offset),
    )
    return [_row(*values) for values in found]


def count(
    connection: sqlite3.Connection, wanted: Filter, words: Sequence[str] | None = None
) -> int:
    """Return how many rows ``select`` would give without a limit."""
    if words is not None and not words:
        return 0
    where, values = _where(connection, wanted, words)
    found = connection.execute(f"SELECT count(*) FROM row WHERE {where}", values)  # noqa: S608
    return int(found.fetchone()[0])


def _order(
    connection: sqlite3.Connection, sort: Sort | None, words: Sequence[str], way: str
) -> tuple[str, list[str]]:
    """Return the terms to sort by, and their values.

    How many words a column has is asked of the words' own table, once for each word: a look at the text of
    every hit takes four times as long where there are many.
    """
    by_name = f"folded {way}, name {way}"
    if sort is not None or not words:
        return f"{_SORTS[sort or 'name']} {way}, {by_name}", []
    terms, values = list[str](), list[str]()
    for column in ("head", "tags"):
        having = [_having(connection, [word], column) for word in words]
        terms.append(" + ".join(f"({condition})" for condition, _ in having) + " DESC")
        values += [value for _, found in having for value in found]
    return ", ".join([*terms, by_name]), values


def _having(
    connection: sqlite3.Connection, words: Sequence[str], column: str = ""
) -> tuple[str, list[str]]:
    """Return the condition for all words, in a column or in any: FTS5's where the table is one, else a scan."""
    sql = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'words'").fetchone()
    if sql and "fts5" in sql[0]:
        only = f"{{{column}}} : " if column else ""
        asked = only + " ".join(f'"{word}"*' for word in words)
        return "id IN (SELECT rowid FROM words WHERE words MATCH ?)", [asked]
    text = f"words.{column}" if column else "words.head || words.tags || words.body"
    every = " AND ".join([f"instr({text}, ?) > 0"] * len(words))
    return f"id IN (SELECT rowid FROM words WHERE {every})", [f" {word}" for word in words]  # noqa: S608


def _where(
    connection: sqlite3.Connection, wanted: Filter, words: Sequence[str] | None
) -> tuple[str, tuple[Any, ...]]:
    parts, values = ["1"], list[Any]()
    if words:
        condition, found = _having(connection, words)
        parts.append(condition)
        values += found
    for column, value in (("kind", wanted.kind), ("family", wanted.family)):
        if value is not None:
            parts.append(f"{column} = ?")
            values.append(value)
    for tag in wanted.tags:
        parts.append("instr(tag_keys, ?) > 0")
        values.append(f"{_BREAK}{fold(tag)}{_BREAK}")
    return " AND ".join(parts), tuple(values)


def _row(*values: Any) -> IndexRow:
    found = IndexRow(*values)
    found.tags = tuple(values[7].split(_BREAK)) if values[7] else ()
    found.trigger_words = tuple(values[8].split(_BREAK)) if values[8] else ()
    return found


def notes(connection: sqlite3.Connection) -> dict[str, str]:
    """Return what was noted of manifests, by their ids."""
    return dict(connection.execute("SELECT manifest, said FROM note"))


def note(connection: sqlite3.Connection, said: Mapping[str, str]) -> None:
    """Note something of manifests, which never change; the transaction is the caller's."""
    connection.executemany("INSERT OR REPLACE INTO note VALUES (?,?)", said.items())


def get_meta(connection: sqlite3.Connection) -> dict[str, str]:
    """Return what the index says about itself; {} if it says nothing."""
    with suppress(sqlite3.OperationalError):
        return dict(connection.execute("SELECT key, value FROM meta"))
    return {}


def set_meta(connection: sqlite3.Connection, **values: str) -> None:
    """Note something about the index."""
    connection.executemany("INSERT OR REPLACE INTO meta VALUES (?,?)", values.items())
