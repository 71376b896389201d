from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memcard.errors import CorruptError, IntegrityError, UsageError
from memcard.store import layout, originals, places, trash
from memcard.store.canonical import sealed
from memcard.store.layout import Layout
from memcard.store.originals import Original
from memcard.store.places import Place, State
from memcard.store.trash import Entry
from memcard.store.writer import Writer

RAW = b"weights" * 1000
GOLDEN = Path(__file__).parents[2] / "golden" / "trash_originals_v1"


@pytest.fixture
def home(tmp_path: Path) -> Layout:
    found = Layout(tmp_path / "home")
    layout.create(found)
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return a_file(tmp_path / "models" / "a.safetensors")


def a_file(path: Path, raw: bytes = RAW) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(raw)
    path.chmod(0o640)
    os.utime(path, ns=(10**18, 10**18 + 7))
    return path


def original(home: Layout, path: Path) -> Original:
    """Adopt a file."""
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    place = Place(path, State.of(path.stat()), places.now())
    with Writer(home) as writer, writer.commit():
        places.adopt(writer, sha256, place, None)
        places.settle(writer, sha256, path)
    return Original.of(sha256, place)


def put_away(home: Layout, *paths: Path) -> Entry:
    found = [original(home, path) for path in paths]
    with Writer(home) as writer:
        return trash.put_away_originals(writer, "pack", "originals", found)


def undo(home: Layout) -> tuple[str, ...]:
    with Writer(home) as writer, writer.commit():
        return trash.undo(writer, trash.find(home))


def no_hard_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", refuse)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder on another disk."""
    memory = Path("/dev/shm")  # the only second file system there is everywhere
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("this machine has one file system only")
    with tempfile.TemporaryDirectory(dir=memory) as name:
        yield Path(name)


def test_a_file_comes_back_as_it_was(home: Layout, file: Path) -> None:
    _goes_and_comes_back(home, file)


def test_so_it_does_on_a_disk_without_hard_links(
    home: Layout, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_hard_links(monkeypatch)

    _goes_and_comes_back(home, file)


@pytest.mark.parametrize("links", [True, False])
def test_so_it_does_from_another_disk(
    home: Layout, elsewhere: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        no_hard_links(monkeypatch)

    _goes_and_comes_back(home, a_file(elsewhere / "a.safetensors"))


def _goes_and_comes_back(home: Layout, file: Path) -> None:
    before = file.stat()

    entry = put_away(home, file)

    assert not file.exists()
    assert entry.nbytes == len(RAW)
    assert places.unchanged(home, file) is None
    assert undo(home) == (str(file),)
    after = file.stat()
    assert file.read_bytes() == RAW
    assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)
    assert places.unchanged(home, file) is not None
    assert list(home.trash.iterdir()) == []
    assert sorted(path.name for path in file.parent.iterdir()) == [file.name]


def test_two_names_of_one_file_come_back_as_two_names_of_one_file(home: Layout, file: Path) -> None:
    second = file.with_name("b.safetensors")
    os.link(file, second)
    put_away(home, file, second)

    undo(home)

    assert file.samefile(second)
    assert file.stat().st_nlink == 2


def test_nothing_is_overwritten(home: Layout, file: Path) -> None:
    second = a_file(file.with_name("b.safetensors"), b"other weights")
    put_away(home, file, second)
    second.write_bytes(b"somebody else's")

    with pytest.raises(
        UsageError, match=r"b\.safetensors is another file by now: rename or move it"
    ):
        undo(home)

    assert second.read_bytes() == b"somebody else's"
    assert not file.exists()
    second.unlink()
    assert len(undo(home)) == 2


def test_what_comes_to_lie_there_at_the_last_moment_is_not_overwritten(
    home: Layout, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = put_away(home, file)
    file.write_bytes(b"new")
    monkeypatch.setattr(os.path, "lexists", lambda _: False)  # it was not there a moment ago

    with Writer(home) as writer, pytest.raises(UsageError, match="came to lie there"):
        originals.give_back(writer, *entry.present_originals()[0])

    assert file.read_bytes() == b"new"


def test_a_folder_that_is_gone_is_not_made_where_a_disk_should_be(home: Layout, file: Path) -> None:
    put_away(home, file)
    file.parent.rmdir()

    with pytest.raises(UsageError, match="make the folder or connect its disk"):
        undo(home)

    file.parent.mkdir()
    undo(home)
    assert file.read_bytes() == RAW


def test_an_undo_that_was_stopped_goes_on(home: Layout, file: Path) -> None:
    entry = put_away(home, file)
    os.link(entry.folder / "0", file)  # it was killed before it removed the name in the trash

    undo(home)

    assert file.stat().st_nlink == 1
    assert places.unchanged(home, file) is not None


def test_a_put_away_that_was_stopped_is_undone_as_far_as_it_went(home: Layout, file: Path) -> None:
    second = a_file(file.with_name("b.safetensors"), b"other weights")
    entry = put_away(home, file, second)
    (entry.folder / "1").rename(second)  # as if it had never been moved

    assert undo(home) == (str(file),)
    assert second.read_bytes() == b"other weights"


def test_a_file_that_changes_at_this_moment_stays(home: Layout, file: Path) -> None:
    found = original(home, file)
    file.write_bytes(b"new")

    with Writer(home) as writer, pytest.raises(IntegrityError, match="left where it is"):
        trash.put_away_originals(writer, "pack", "", [found])

    assert file.read_bytes() == b"new"
    assert not list(home.tmp.iterdir())


def test_a_copy_that_rotted_in_the_trash_does_not_become_the_users_file(
    home: Layout, elsewhere: Path
) -> None:
    file = a_file(elsewhere / "a.safetensors")
    entry = put_away(home, file)
    (entry.folder / "0").write_bytes(RAW[:-1] + b"x")

    with pytest.raises(IntegrityError, match="memcard export"):
        undo(home)

    assert list(file.parent.iterdir()) == []


@pytest.mark.parametrize("change", [{"path": "models/a"}, {"sha256": "x"}, {"size": "7"}])
def test_a_wrong_journal_is_refused(home: Layout, file: Path, change: dict[str, Any]) -> None:
    entry = put_away(home, file)
    facts = {**entry.originals[0].to_dict(), **change}
    journal = {"trash": 1, "verb": "pack", "title": "", "at": entry.at, "items": []}
    (entry.folder / "journal.json").write_bytes(sealed(journal | {"originals": [facts]}))

    with pytest.raises(CorruptError):
        list(trash.every(home))


def test_a_journal_of_the_first_version_is_read(home: Layout) -> None:
    folder = home.trash / "20261122T120003-000001"
    folder.mkdir(parents=True)
    (folder / "journal.json").write_bytes((GOLDEN / "journal.json").read_bytes())

    (entry,) = trash.every(home)

    assert (entry.verb, entry.items) == ("pack", ())
    assert entry.originals == (
        Original(
            Path("/home/me/Ölbild.safetensors"),
            "b0c6" * 16,
            State(4096, 10**18 + 7, 77, 2049),
            "2026-11-22T12:00:00Z",
            0o644,
        ),
    )
