"""Lists and searches: from the index, which is never behind the library whoever changed it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fixtures import small
from fixtures.training import write_save
from memcard.cli import ls as command
from memcard.cli.main import main
from memcard.errors import NotFoundError, UsageError
from memcard.jobs.library import Library
from memcard.store import cards, library_index, refs
from memcard.store.index_rows import _SORTS
from memcard.store.writer import Writer

PAST = 1_600_000_000_000_000_000


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEMCARD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def library(tmp_path: Path) -> Library:
    library = Library(tmp_path / "home")
    for number, name in enumerate(("dreamPainter", "Film Grain", "other")):
        path = small.save(
            tmp_path / f"{name}.safetensors", small.weights(number, size=100 + number)
        )
        os.utime(path, ns=(PAST, PAST))
        library.add([path])
    return library


def names(library: Library, query: str = "", **asked: object) -> list[str]:
    return [entry.name for entry in library.ls(query, **asked).entries]  # type: ignore[arg-type]


def test_words_find_what_begins_so_in_name_card_and_digests(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMCARD_HOME", str(library.path))
    from memcard.jobs.card import set_card

    set_card("other", [("tags", "portrait, Film"), ("trigger_words", "glowing eyes")])

    assert names(library) == ["dreamPainter", "Film Grain", "other"]
    assert names(library, "paint") == ["dreamPainter"]
    assert names(library, "film") == ["Film Grain", "other"]
    assert names(library, "film eyes") == ["other"]
    assert names(library, tags=["film"]) == ["other"]
    digest = library.show("Film Grain").version.digests["blake3"]
    assert names(library, digest[:12]) == ["Film Grain"]
    assert names(library, sort="size", descending=True) == ["other", "Film Grain", "dreamPainter"]
    assert names(library, "film", sort="size", descending=True) == ["other", "Film Grain"]
    assert names(library, kind="lora") == []
    assert library.ls("eyes").entries[0].tags == ("portrait", "Film")


def test_the_index_is_built_once_and_then_follows(library: Library, cache: Path) -> None:
    names(library)
    built = next(cache.glob("index-*.sqlite")).stat().st_ino

    library.rm("other")
    assert names(library) == ["dreamPainter", "Film Grain"]
    library.undo()
    assert names(library) == ["dreamPainter", "Film Grain", "other"]

    assert next(cache.glob("index-*.sqlite")).stat().st_ino == built


def test_a_change_by_a_process_that_was_killed_at_once_is_seen(library: Library) -> None:
    names(library)
    code = f"""
import os
from memcard.store import refs
from memcard.store.layout import Layout
from memcard.store.writer import Writer
home = Layout(__import__("pathlib").Path({str(library.path)!r}))
found = refs.get(home, "other")
with Writer(home) as writer, writer.commit():
    refs.put(writer, refs.Ref("brand new", found.version))
    os._exit(9)
"""

    subprocess.run([sys.executable, "-c", code], check=False)

    assert names(library, "brand") == ["brand new"]


def test_many_quick_changes_are_all_seen(library: Library) -> None:
    ref = refs.get(library.layout, "other")
    assert ref is not None
    for number in range(20):
        with Writer(library.layout) as writer, writer.commit():
            refs.put(writer, refs.Ref(f"quick {number}", ref.version))
        assert len(names(library, "quick")) == number + 1


def test_on_a_disk_that_counts_in_seconds_nothing_is_missed(library: Library) -> None:
    now = int(time.time()) * 10**9
    ref = refs.get(library.layout, "other")
    assert ref is not None
    os.utime(library.layout.refs, ns=(now, now))
    names(library)

    with Writer(library.layout) as writer, writer.commit():
        refs.put(writer, refs.Ref("same second", ref.version))
    os.utime(library.layout.refs, ns=(now, now))

    assert names(library, "second") == ["same second"]


def test_a_name_in_other_letters_replaces_its_row(library: Library) -> None:
    names(library)
    ref = refs.get(library.layout, "other")
    assert ref is not None

    with Writer(library.layout) as writer, writer.commit():
        refs.put(writer, refs.Ref("OTHER", ref.version))

    assert names(library) == ["dreamPainter", "Film Grain", "OTHER"]


def test_only_what_changed_is_read_again(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    names(library)
    library.rm("other")
    library.undo()
    read = []
    real = refs.read
    monkeypatch.setattr(refs, "read", lambda path: read.append(path.stem) or real(path))

    names(library)

    assert read == []  # it is the very file that was there before
    with library_index.open_index(library.layout, library.id) as index:
        assert index.count() == 3
        assert index.built == 0


def test_a_damaged_name_is_told_and_the_others_are_listed(library: Library) -> None:
    refs.path_of(library.layout, "other").write_text("{")

    found = library.ls()

    assert [entry.name for entry in found.entries] == ["dreamPainter", "Film Grain"]
    assert "other.json" in found.faults[0]


def test_a_forged_name_is_refused_and_told(library: Library) -> None:
    raw = refs.path_of(library.layout, "other").read_bytes()
    (library.layout.refs / "innocent.json").write_bytes(raw)

    found = library.ls()

    assert [entry.name for entry in found.entries] == ["dreamPainter", "Film Grain", "other"]
    assert "innocent.json: holds the name 'other'" in found.faults[0]


def test_a_damaged_card_hides_no_name(library: Library) -> None:
    sha256 = library.show("other").version.sha256
    cards.folder(library.layout).mkdir(exist_ok=True)
    cards.path_of(library.layout, sha256).write_text("{")

    assert names(library, "other") == ["other"]


def test_where_each_is(library: Library, tmp_path: Path) -> None:
    library.pack("other", keep_files=True)
    (tmp_path / "other.safetensors").unlink()
    (tmp_path / "Film Grain.safetensors").unlink()

    states = {entry.name: entry.state for entry in library.ls().entries}

    assert states == {"dreamPainter": "at hand", "Film Grain": "missing", "other": "packed"}
    assert {entry.state for entry in library.ls(look=False).entries} == {None}


def test_a_part_of_a_list_says_how_many_there_are(library: Library) -> None:
    few = library.ls(limit=2)
    assert ([e.name for e in few.entries], few.total) == (["dreamPainter", "Film Grain"], 3)
    assert library.ls().total == 3
    assert library.ls("safetensors", limit=1).total == library.ls("safetensors").total
    assert names(library, "film", limit=1, sort="size") == ["Film Grain"]


def test_the_command_cuts_a_list_on_a_terminal_only_and_says_so(
    library: Library, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MEMCARD_HOME", str(library.path))
    monkeypatch.setattr(command, "_PAGE", 2)

    def listed(*args: str) -> tuple[int, str]:
        assert main(["ls", *args]) == 0
        out, err = capsys.readouterr()
        return len(out.splitlines()) - 1, err

    assert listed() == (3, "")
    assert listed("--limit", "1") == (1, "1 of 3; --all lists the others too.\n")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert listed() == (2, "2 of 3; --all lists the others too.\n")
    assert listed("--all") == (3, "")


@pytest.fixture
def trained(library: Library, tmp_path: Path) -> Library:
    """The library with the saves of two runs."""
    for run, steps in (("b-run", (100, 20, 3)), ("z-run", (7,))):
        (tmp_path / run).mkdir()
        for step in steps:
            path = write_save(tmp_path / run, step, name=run)
            library.add([path], name=f"{run}/step-{step}")
    return library


def test_the_saves_of_a_training_are_one_entry(trained: Library) -> None:
    found = trained.ls(grouped=True)
    each = {entry.name: entry for entry in trained.ls().entries}
    (group,) = [entry for entry in found.entries if entry.saves]

    assert [e.name for e in found.entries] == [
        *("b-run", "dreamPainter", "Film Grain", "other", "z-run/step-7")
    ]
    assert (found.total, len(each)) == (5, 7)
    assert (group.saves, group.kind, group.state) == (3, "training", "at hand")
    assert group.size == sum(each[f"b-run/step-{n}"].size for n in (3, 20, 100))
    assert len(trained.ls(grouped=True, kind="training").entries) == 4
    assert len(trained.ls("run", grouped=True).entries) == 4
    assert len(trained.ls(grouped=True, limit=2).entries) == 2
    assert trained.ls(grouped=True, limit=2).total == 5


def test_a_group_is_at_hand_only_if_every_save_is(trained: Library, tmp_path: Path) -> None:
    trained.locate("b-run/step-20").unlink()
    assert trained.ls(grouped=True).entries[0].state is None
    for step in (3, 100):
        trained.locate(f"b-run/step-{step}").unlink()
    assert trained.ls(grouped=True).entries[0].state == "missing"


def test_the_command_groups_saves_on_a_terminal_only(
    trained: Library, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MEMCARD_HOME", str(trained.path))

    def first(*args: str) -> str:
        assert main(["ls", *args]) == 0
        return capsys.readouterr().out.splitlines()[1]

    assert first().startswith("b-run/step-100 ")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert first().startswith("b-run (3 saves) ")
    assert first("--all").startswith("b-run/step-100 ")


def test_what_cannot_be_meant_is_refused(library: Library, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing is sorted by"):
        library.ls(sort="beauty")  # type: ignore[arg-type]
    with pytest.raises(NotFoundError, match="is no library yet"):
        Library(tmp_path / "nowhere").ls()


def test_the_command_knows_every_order() -> None:
    assert tuple(_SORTS) == command._SORTS
