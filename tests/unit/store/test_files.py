from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from memcard.errors import IntegrityError, UsageError
from memcard.store import files, layout, places
from memcard.store.files import How, Owned
from memcard.store.layout import Layout
from memcard.store.places import Place, State
from memcard.store.writer import Writer

BYTES = os.urandom(300_000)
SHA256 = hashlib.sha256(BYTES).hexdigest()
PAST = 1_600_000_000_000_000_000


@pytest.fixture
def home(tmp_path: Path) -> Layout:
    found = Layout(tmp_path / "home")
    layout.create(found)
    return found


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return placed(tmp_path / "mine.bin")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Place]:
    """A file on another disk than the library."""
    shm = Path("/dev/shm")
    if not shm.is_dir() or shm.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second disk")
    folder = Path(tempfile.mkdtemp(dir=shm))
    yield placed(folder / "mine.bin")
    shutil.rmtree(folder)


def placed(path: Path) -> Place:
    path.write_bytes(BYTES)
    os.utime(path, ns=(PAST, PAST))
    return Place(path, State.of(path.stat()), places.now())


def take(home: Layout, place: Place, how: How) -> Owned | None:
    with Writer(home) as writer:
        return files.take(writer, SHA256, place, how)


@pytest.mark.parametrize("how", [how for how in get_args(How) if how != "reflink"])
def test_a_taken_file_has_the_bytes_and_the_old_name_stays(
    home: Layout, place: Place, how: How
) -> None:
    owned = take(home, place, how)

    assert owned is not None
    assert owned == files.get(home, SHA256)
    assert owned.path.read_bytes() == place.path.read_bytes() == BYTES
    owned.check()


def test_a_reflink_is_made_or_told_impossible(home: Layout, place: Place) -> None:
    owned = take(home, place, "reflink")

    if owned is None:
        assert files.get(home, SHA256) is None
    else:
        assert owned.path.stat().st_ino != place.path.stat().st_ino
    assert list(home.tmp.iterdir()) == []


def test_from_another_disk_there_is_no_link_and_a_move_is_a_copy(
    home: Layout, elsewhere: Place
) -> None:
    assert take(home, elsewhere, "hardlink") is None

    with Writer(home) as writer:
        owned = files.take(writer, SHA256, elsewhere, "move")
        assert owned is not None
        files.let_go(writer, owned, elsewhere)

    assert not elsewhere.path.exists()
    assert owned.path.read_bytes() == BYTES
    assert owned.path.stat().st_mode & 0o222 == 0


@pytest.mark.parametrize("how", ["hardlink", "copy", "move"])
def test_a_file_that_is_not_what_was_hashed_is_not_taken(
    home: Layout, place: Place, how: How
) -> None:
    place.path.write_bytes(BYTES[:-1] + b"x")

    with pytest.raises(IntegrityError, match="changed"):
        take(home, place, how)

    assert files.get(home, SHA256) is None
    assert list(home.tmp.iterdir()) == []


def test_a_copy_is_hashed_before_it_counts(home: Layout, place: Place) -> None:
    place.path.write_bytes(BYTES[:-1] + b"x")
    os.utime(place.path, ns=(PAST, PAST))  # the state says nothing

    with pytest.raises(IntegrityError, match="changed while it was copied"):
        take(home, place, "copy")


def test_a_name_is_not_let_go_if_something_else_lies_there_now(home: Layout, place: Place) -> None:
    with Writer(home) as writer:
        owned = files.take(writer, SHA256, place, "move")
        assert owned is not None
        place.path.unlink()
        place.path.write_bytes(b"new and precious")

        with pytest.raises(IntegrityError, match="left where it is"):
            files.let_go(writer, owned, place)

    assert place.path.read_bytes() == b"new and precious"


def test_a_link_is_not_let_go(home: Layout, place: Place) -> None:
    link = place.path.with_name("link")
    link.symlink_to(place.path)
    with Writer(home) as writer:
        owned = files.take(writer, SHA256, place, "copy")
        assert owned is not None

        with pytest.raises(UsageError, match="is a link"):
            files.let_go(writer, owned, Place(link, place.state, ""))

    assert link.exists()


def test_a_file_without_its_record_does_not_count_and_is_taken_again(
    home: Layout, place: Place
) -> None:
    take(home, place, "copy")
    home.file_state(SHA256).unlink()
    assert files.get(home, SHA256) is None

    assert take(home, place, "hardlink") is not None

    owned = files.get(home, SHA256)
    assert owned is not None
    assert owned.how == "hardlink"


def test_the_time_tells_of_hard_links_only(home: Layout, place: Place) -> None:
    owned = take(home, place, "copy")
    assert owned is not None
    os.utime(owned.path, ns=(PAST + 5, PAST + 5))
    owned.check()

    linked = Owned(owned.path, "hardlink", owned.size, owned.mtime_ns)

    with pytest.raises(IntegrityError, match="someone edited"):
        linked.check()
