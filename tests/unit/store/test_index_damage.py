"""The index is a cache: whatever happens to its file, the answers are those of the library."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fixtures.index_rows import ID, ROWS, Library, answers, database, fresh
from memcard.store.index import Index, IndexRow
from memcard.store.index_file import IndexFile


@pytest.fixture
def library() -> Library:
    return list(ROWS)


@pytest.fixture
def index(tmp_path: Path, library: Library) -> Iterator[Index]:
    with Index(ID, lambda: library, folder=tmp_path) as found:
        yield found


def damage(path: Path, how: str) -> None:
    raw = bytearray(path.read_bytes())
    if how == "deleted":
        path.unlink()
        return
    if how == "empty":
        raw = bytearray()
    elif how == "garbage":
        raw[:] = random.Random(1).randbytes(len(raw))
    elif how == "no database":
        raw[:] = b"hello"
    elif how == "half":
        del raw[len(raw) // 2 :]
    elif how == "cut":
        del raw[-1:]
    elif how == "longer":
        raw += b"\0" * 4096
    path.write_bytes(raw)


@pytest.mark.parametrize(
    "how", ["deleted", "empty", "garbage", "no database", "half", "cut", "longer"]
)
def test_a_damaged_index_is_built_anew_with_equal_results(
    tmp_path: Path, library: Library, how: str
) -> None:
    with fresh(tmp_path, library) as first:
        expected = answers(first)

    damage(database(tmp_path), how)

    with fresh(tmp_path, library) as again:
        assert answers(again) == expected
        assert (again.built, again.in_memory) == (1, False)
    with fresh(tmp_path, library) as third:
        assert (answers(third), third.built) == (expected, 0)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_one_flipped_bit_anywhere_changes_no_result(tmp_path: Path, where: float, bit: int) -> None:
    library = list(ROWS)
    with fresh(tmp_path, library) as first:
        expected = answers(first)
    path = database(tmp_path)
    raw = bytearray(path.read_bytes())
    raw[int(where * len(raw))] ^= 1 << bit
    path.write_bytes(raw)

    with fresh(tmp_path, library) as again:
        assert (answers(again), again.built) == (expected, 1)


def test_an_index_that_says_it_is_of_another_version_is_built_anew(
    tmp_path: Path, library: Library
) -> None:
    with fresh(tmp_path, library) as first:
        expected = answers(first)
    with sqlite3.connect(database(tmp_path)) as connection:
        connection.execute("UPDATE meta SET value = '999' WHERE key = 'schema'")
    connection.close()
    IndexFile(tmp_path, ID).seal()

    with fresh(tmp_path, library) as again:
        assert (answers(again), again.built) == (expected, 1)


def test_another_schema_has_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = database(tmp_path)

    monkeypatch.setattr("memcard.store.index_file.SCHEMA", 9)

    assert database(tmp_path) != before


def test_a_log_that_was_left_behind_is_not_played_into_the_index(
    tmp_path: Path, library: Library
) -> None:
    with fresh(tmp_path, library) as first:
        expected = answers(first)
    path = database(tmp_path)
    path.with_name(f"{path.name}-wal").write_bytes(b"\x37\x7f\x06\x82" + os.urandom(8192))

    with fresh(tmp_path, library) as again:
        assert answers(again) == expected


def test_a_killed_writer_leaves_an_index_that_is_built_anew(
    tmp_path: Path, library: Library
) -> None:
    with fresh(tmp_path, library) as first:
        expected = answers(first)
    script = f"""
import os
from pathlib import Path
from memcard.store import index_rows
from memcard.store.index import Index, IndexRow
index_rows.set_meta = lambda *_, **__: os._exit(137)  # between the change and the commit
Index({ID!r}, list, folder=Path({str(tmp_path)!r})).remove(["dreamshaperXL10"])
"""
    done = subprocess.run([sys.executable, "-c", script], check=False)

    assert done.returncode == 137
    with fresh(tmp_path, library) as again:
        assert answers(again) == expected


def test_where_nothing_can_be_written_the_index_is_kept_in_memory(
    tmp_path: Path, library: Library
) -> None:
    (tmp_path / "file").write_text("in the way")
    with fresh(tmp_path / "ok", library) as first:
        expected = answers(first)

    with fresh(tmp_path / "file" / "cache", library) as index:
        assert answers(index) == expected
        assert index.in_memory
        library.pop()
        index.remove([ROWS[-1].name])
        assert index.count() == 4


def test_a_change_that_cannot_be_written_is_not_forgotten(
    index: Index, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.list()
    library.pop()
    with monkeypatch.context() as patched:
        patched.setattr(IndexFile, "seal", full)
        index.remove([ROWS[-1].name])

    assert index.count() == 4


def full(file: IndexFile) -> None:
    raise OSError(28, "No space left on device")


def test_a_full_disk_gives_the_same_answers(
    tmp_path: Path, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fresh(tmp_path / "ok", library) as first:
        expected = answers(first)
    monkeypatch.setattr(IndexFile, "seal", full)

    with fresh(tmp_path / "full", library) as index:
        assert answers(index) == expected
        assert index.in_memory


def test_without_a_cache_folder_nothing_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, library: Library
) -> None:
    with fresh(tmp_path / "ok", library) as first:
        expected = answers(first)
    monkeypatch.setenv("MEMCARD_CACHE", "")
    monkeypatch.chdir(tmp_path / "ok")
    before = sorted(tmp_path.rglob("*"))

    with Index(ID, lambda: library) as index:
        assert answers(index) == expected
        assert index.in_memory
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("content", [None, "", "0" * 64, "\udcff"])
def test_a_damaged_digest_is_a_damaged_index(
    tmp_path: Path, library: Library, content: str | None
) -> None:
    with fresh(tmp_path, library) as first:
        expected = answers(first)
    note = database(tmp_path).with_name(f"{database(tmp_path).name}.blake3")
    if content is None:
        note.unlink()
    else:
        note.write_bytes(content.encode("utf-8", "surrogateescape"))

    with fresh(tmp_path, library) as again:
        assert (answers(again), again.built) == (expected, 1)


def test_a_build_that_was_killed_is_swept_and_done_again(tmp_path: Path, library: Library) -> None:
    script = f"""
import os
from pathlib import Path
from memcard.store.index import Index, IndexRow
def rows():
    yield IndexRow("", "half", "", "", "", 0)
    os._exit(137)
Index({ID!r}, rows, folder=Path({str(tmp_path)!r})).list()
"""
    done = subprocess.run([sys.executable, "-c", script], check=False)
    left = [path.name for path in tmp_path.iterdir()]

    with fresh(tmp_path, library) as index:
        assert index.search("half") == []
        assert index.count() == 5
    assert done.returncode == 137
    assert any(name.endswith(".new") for name in left)
    assert not [path for path in tmp_path.iterdir() if ".new" in path.name]


def test_a_library_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    def rows() -> list[IndexRow]:
        raise OSError(5, "Input/output error")

    with Index(ID, rows, folder=tmp_path) as index, pytest.raises(OSError, match="Input/output"):
        index.list()
