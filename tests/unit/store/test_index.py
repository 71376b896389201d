"""Lists and searches of a library, and changes seen by everybody."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fixtures.index_rows import BARE, ID, ROWS, Library, answers, database, fresh
from memcard.core.card import Card
from memcard.errors import UsageError
from memcard.store import index_rows
from memcard.store.index import Index, IndexRow, row_of
from memcard.store.index_file import IndexFile
from memcard.store.index_words import query_words


@pytest.fixture
def library() -> Library:
    return list(ROWS)


@pytest.fixture
def index(tmp_path: Path, library: Library) -> Iterator[Index]:
    with Index(ID, lambda: library, folder=tmp_path) as found:
        yield found


def test_a_list_gives_every_row_back_without_its_text(index: Index) -> None:
    assert index.list() == [
        BARE[i] for i in (4, 0, 3, 1, 2)
    ]  # as people sort: case and accents aside
    assert index.count() == 5


def test_a_list_is_sorted_filtered_and_cut(index: Index) -> None:
    def names(**asked: object) -> list[str]:
        return [row.name for row in index.list(**asked)]  # type: ignore[arg-type]

    assert names(sort="size") == [row.name for row in reversed(ROWS)]
    assert names(sort="added", descending=True, limit=2) == ["a_plain_name", "Ölmalerei"]
    assert names(kind="lora", sort="added") == ["pixel-lora_v2", "Ölmalerei"]
    assert names(family="sd1", kind="vae") == ["vaeFtMse840000"]
    assert names(tags=["art"], sort="added") == ["dreamshaperXL10", "Ölmalerei"]
    assert names(tags=["art", "oil"]) == ["Ölmalerei"]
    assert names(tags=["ar"]) == []
    assert names(sort="added", limit=1, offset=1) == ["pixel-lora_v2"]
    with pytest.raises(UsageError, match="nothing is sorted by 'colour'"):
        index.list(sort="colour")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("dream", ["dreamshaperXL10"]),
        ("xl10", ["dreamshaperXL10"]),
        ("PIXEL", ["pixel-lora_v2"]),
        ("art", ["pixel-lora_v2", "dreamshaperXL10", "Ölmalerei"]),  # in the title, then in tags
        ("olmal", ["Ölmalerei"]),
        ("deja", ["pixel-lora_v2"]),
        ("油", ["Ölmalerei"]),
        ("faces stab", ["vaeFtMse840000"]),
        ("faces pixel", []),
        (ROWS[1].sha256[:10], ["pixel-lora_v2"]),
        ('" OR 1 --', []),
        ("*", []),
    ],
)
def test_a_search_finds_words_by_their_beginnings(
    index: Index, query: str, found: list[str]
) -> None:
    assert [row.name for row in index.search(query)] == found


def test_a_search_takes_the_filters_of_a_list(index: Index) -> None:
    assert [row.name for row in index.search("art", kind="lora", family="flux")] == ["Ölmalerei"]
    assert [row.name for row in index.search("art", limit=1, offset=1)] == ["dreamshaperXL10"]


def test_changes_are_seen_by_other_processes_without_building_anew(
    tmp_path: Path, library: Library
) -> None:
    reader, writer = fresh(tmp_path, library), fresh(tmp_path, library)
    reader.list()

    library[0] = replace(library[0], title="Nightmare", tags=())
    writer.upsert([library[0]])
    gone = library.pop(1)
    writer.remove([gone.name, "never there"])

    assert [row.title for row in reader.search("nightmare")] == ["Nightmare"]
    assert reader.search("pixel") == []
    assert (reader.built, writer.built) == (1, 0)
    assert fresh(tmp_path, library).list() == reader.list()


def test_an_index_of_another_state_of_the_library_is_built_anew(
    tmp_path: Path, library: Library
) -> None:
    state = ["one"]
    index = fresh(tmp_path, library, stamp=lambda: state[0])
    index.list()

    library.pop()
    state[0] = "two"

    assert index.count() == 4
    assert index.built == 2


def test_a_change_that_somebody_else_made_meanwhile_is_not_lost(
    tmp_path: Path, library: Library
) -> None:
    state = ["one"]
    index = fresh(tmp_path, library, stamp=lambda: state[0])
    index.list()

    library.append(replace(ROWS[0], name="from someone else"))
    state[0] = "two"
    mine = replace(ROWS[0], name="mine")
    library.append(mine)
    state[0] = "three"
    index.upsert([mine], was="two")

    assert {"mine", "from someone else"} <= {row.name for row in index.list()}


def test_the_stamp_follows_a_change_that_was_the_only_one(tmp_path: Path, library: Library) -> None:
    state = ["one"]
    index = fresh(tmp_path, library, stamp=lambda: state[0])
    index.list()

    library.append(replace(ROWS[0], name="mine"))
    state[0] = "two"
    index.upsert(library[-1:], was="one")

    assert index.count() == 6
    assert index.built == 1


def test_without_fts5_the_results_and_their_order_are_the_same(
    tmp_path: Path, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fresh(tmp_path / "fts", library) as index:
        expected = answers(index)

    monkeypatch.setattr(index_rows, "_FTS", "CREATE VIRTUAL TABLE words USING no_such_module(a)")

    with fresh(tmp_path / "plain", library) as index:
        assert answers(index) == expected
        assert index.search("dream")


WORDS = st.text("aAbBzZ019éßØ_- 'Пж油\"*", max_size=12)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(WORDS, unique=True, max_size=8), texts=st.lists(WORDS, min_size=8), query=WORDS
)
def test_fts5_and_the_scan_agree_on_any_text(
    tmp_path: Path, names: list[str], texts: list[str], query: str
) -> None:
    rows = [
        IndexRow("", name, "", "", "", 0, title=texts[i], text=texts[-i])
        for i, name in enumerate(names)
    ]
    found = []
    for create in (index_rows._FTS, index_rows._NO_FTS):
        connection = sqlite3.connect(":memory:")
        for statement in (*index_rows._TABLES.split(";"), create):
            connection.execute(statement)
        index_rows.insert(connection, rows)
        words, wanted = query_words(query), index_rows.Filter()
        some = index_rows.select(
            connection, wanted, None, descending=False, limit=-1, offset=0, words=words
        )
        found.append([row.name for row in some])
        assert index_rows.count(connection, wanted, words) == len(some)
        connection.close()

    assert found[0] == found[1]


def test_many_threads_may_ask_while_one_changes(index: Index, library: Library) -> None:
    seen: list[object] = []

    def ask() -> None:
        seen.extend(len(index.search("dream")) for _ in range(20))

    threads = [Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for i in range(20):
        index.upsert([replace(ROWS[0], title=f"Dream {i}")])
    for thread in threads:
        thread.join()

    assert seen == [1] * 80


def test_two_processes_may_write_at_once(tmp_path: Path, library: Library) -> None:
    with fresh(tmp_path, library) as index:
        index.list()
    script = """
import sys
from pathlib import Path
from memcard.store.index import Index, IndexRow
index = Index(sys.argv[1], list, folder=Path(sys.argv[2]))
for i in range(15):
    index.upsert([IndexRow("", f"{sys.argv[3]}-{i}", "", "lora", "sd1", i)])
"""
    writers = [
        subprocess.Popen([sys.executable, "-c", script, ID, str(tmp_path), name]) for name in "ab"
    ]

    assert [writer.wait() for writer in writers] == [0, 0]
    with fresh(tmp_path, library) as index:
        assert (index.count(), index.built) == (len(ROWS) + 30, 0)


def test_the_index_lies_in_the_cache_folder_and_only_under_its_own_id(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, library: Library
) -> None:
    monkeypatch.setenv("MEMCARD_CACHE", str(tmp_path / "here"))
    with Index(ID, lambda: library) as index:
        index.list()
    assert database(tmp_path / "here").is_file()

    with pytest.raises(ValueError, match="no id of a library"):
        IndexFile(tmp_path, "../../etc/passwd")


def test_a_row_of_a_card_is_found_by_what_the_card_says(tmp_path: Path) -> None:
    card = Card(
        title="Oil Brush",
        author="painter",
        tags=("style",),
        trigger_words=("thick paint",),
        hashes={"autov3": "0123456789ab"},
    )
    row = row_of(
        card, manifest="m", name="x", sha256="", kind="lora", family="sdxl", size=1, added=2.0
    )

    with Index(ID, lambda: [row], folder=tmp_path) as index:
        for query in ("oil", "painter", "style", "thick", "01234567", "lora sdxl"):
            assert index.search(query) == [replace(row, text="")]


def test_what_is_noted_of_manifests_stays_and_hides_no_change(
    tmp_path: Path, library: Library
) -> None:
    state = ["one"]
    with fresh(tmp_path, library, stamp=lambda: state[0]) as index:
        index.list()
        state[0] = "two"  # the library changes; the index does not know it yet
        index.note({"a" * 64: "said"})
        library.append(replace(ROWS[0], name="new"))
        assert "new" in {row.name for row in index.list()}
        assert index.built == 2
        index.note({"b" * 64: "more"})
    with fresh(tmp_path, library, stamp=lambda: state[0]) as again:
        assert again.notes() == {"b" * 64: "more"}
        assert again.built == 0
