from __future__ import annotations

import json
from pathlib import Path

import pytest

from memcard.errors import CorruptError, NotFoundError, UsageError
from memcard.store import layout, trash
from memcard.store.canonical import sealed
from memcard.store.layout import Layout
from memcard.store.trash import Entry
from memcard.store.writer import Writer


@pytest.fixture
def home(tmp_path: Path) -> Layout:
    found = Layout(tmp_path / "home")
    layout.create(found)
    return found


def put_away(home: Layout, *names: str) -> Entry:
    paths = [home.root / name for name in names]
    with Writer(home) as writer, writer.commit():
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(path.name.encode())
        return trash.put_away(writer, "rm", ", ".join(names), paths)


def test_what_was_put_away_comes_back_where_it_was(home: Layout) -> None:
    entry = put_away(home, "refs/a.json", "refs/b.json")
    assert not list(home.refs.iterdir())
    assert entry.nbytes == 12

    with Writer(home) as writer:
        back = trash.undo(writer, trash.find(home))

    assert back == ("refs/a.json", "refs/b.json")
    assert (home.refs / "a.json").read_bytes() == b"a.json"
    assert list(home.trash.iterdir()) == []


def test_a_half_finished_removal_is_undone_as_far_as_it_went(home: Layout) -> None:
    entry = put_away(home, "refs/a.json", "refs/b.json")
    (entry.folder / "1").rename(home.refs / "b.json")  # as if it had never been moved

    with Writer(home) as writer:
        trash.undo(writer, trash.find(home))

    assert sorted(path.name for path in home.refs.iterdir()) == ["a.json", "b.json"]


def test_undo_is_all_or_nothing(home: Layout) -> None:
    put_away(home, "refs/a.json", "refs/b.json")
    (home.refs / "b.json").write_bytes(b"new")

    with Writer(home) as writer, pytest.raises(UsageError, match="b: the name is in use again"):
        trash.undo(writer, trash.find(home))

    assert [path.name for path in home.refs.iterdir()] == ["b.json"]


def test_entries_are_found_by_their_first_letters_and_the_newest_without_any(home: Layout) -> None:
    first = put_away(home, "refs/a.json")
    second = put_away(home, "manifests/b.json")
    newest = max(first, second, key=lambda entry: entry.name)

    assert trash.find(home) == newest
    assert trash.find(home, first.name) == first
    with pytest.raises(NotFoundError, match="no entry"):
        trash.find(home, "2")
    with pytest.raises(NotFoundError, match="no entry"):
        trash.find(home, "x")


@pytest.mark.parametrize("item", ["../x", "refs/../../x", "/etc/passwd", "models/x", "", "refs\\x"])
def test_a_journal_cannot_lead_out_of_the_library(home: Layout, item: str) -> None:
    entry = put_away(home, "refs/a.json")
    journal = entry.folder / "journal.json"
    journal.write_bytes(sealed(json.loads(journal.read_text()) | {"items": [item]}))

    with pytest.raises(CorruptError, match="no file of a library"):
        list(trash.every(home))
    with pytest.raises(NotFoundError):
        trash.find(home)


def test_links_in_the_trash_are_not_followed(home: Layout, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_bytes(b"mine")
    entry = put_away(home, "refs/a.json")
    (entry.folder / "0").unlink()
    (entry.folder / "0").symlink_to(mine)

    with Writer(home) as writer:
        trash.remove(writer, entry)

    assert mine.read_bytes() == b"mine"


def test_an_entry_without_a_journal_is_empty_and_goes(home: Layout) -> None:
    (home.trash / "20260101T000000-abcdef").mkdir(parents=True)

    assert list(trash.every(home)) == []
    trash.remove_empty(home)

    assert list(home.trash.iterdir()) == []


def test_what_was_put_away_last_comes_back_first_even_within_a_second(home: Layout) -> None:
    entries = [put_away(home, f"refs/{n}.json") for n in range(20)]

    assert [entry.name for entry in entries] == sorted({entry.name for entry in entries})
    assert trash.find(home) == entries[-1]


def test_undo_that_was_stopped_is_ended_and_takes_back_nothing_else(home: Layout) -> None:
    first, second = put_away(home, "refs/a.json"), put_away(home, "refs/b.json")
    with Writer(home) as writer, writer.commit():
        writer.move(second.folder / "0", home.root / "refs" / "b.json")  # and then it was killed

    found = trash.find(home)
    with Writer(home) as writer, writer.commit():
        trash.undo(writer, found)

    assert found == second
    assert not second.folder.exists()
    assert trash.find(home) == first


@pytest.mark.parametrize("item", ["adopted/ab/x.json", "packed/ab/x.json"])
def test_a_record_that_was_written_anew_is_not_replaced_by_an_old_one(
    home: Layout, item: str
) -> None:
    entry = put_away(home, item)
    newer = home.root / item
    newer.write_bytes(b"newer")

    with Writer(home) as writer, writer.commit():
        assert trash.undo(writer, entry) == ()

    assert newer.read_bytes() == b"newer"
    assert not entry.folder.exists()
