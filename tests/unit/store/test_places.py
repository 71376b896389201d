from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from memcard.errors import CorruptError
from memcard.store import layout, places
from memcard.store.layout import Layout
from memcard.store.places import Place, Record, State
from memcard.store.writer import Writer

A, B = "a" * 64, "b" * 64
OLD = 1_600_000_000_000_000_000


@pytest.fixture
def home(tmp_path: Path) -> Layout:
    found = Layout(tmp_path / "home")
    layout.create(found)
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "\udcff x.bin"  # a name that is no UTF-8
    path.write_bytes(b"12345")
    os.utime(path, ns=(OLD, OLD))
    return path


def place(path: Path) -> Place:
    return Place(path, State.of(path.stat()), places.now())


def adopt(home: Layout, sha256: str, path: Path) -> None:
    with Writer(home) as writer, writer.commit():
        places.adopt(writer, sha256, place(path), B)
        places.settle(writer, sha256, path)


def test_a_file_that_was_not_touched_is_known_by_a_stat(home: Layout, file: Path) -> None:
    adopt(home, A, file)

    record = places.unchanged(home, file)

    assert record is not None
    assert (record.sha256, record.manifest, record.places[0].path) == (A, B, file)
    assert list(places.every(home)) == [A]


@pytest.mark.parametrize("change", ["size", "mtime_ns", "inode"])
def test_any_change_that_shows_is_noticed(home: Layout, file: Path, change: str) -> None:
    state = State.of(file.stat())

    assert state.is_of(file.stat())
    assert not replace(state, **{change: 7}).is_of(file.stat())  # type: ignore[arg-type]


def test_after_a_remount_the_inode_is_no_sign(file: Path) -> None:
    state = State.of(file.stat())

    assert replace(state, device=7, inode=7).is_of(file.stat())


def test_other_bytes_at_the_same_path_replace_what_was_known(home: Layout, file: Path) -> None:
    adopt(home, A, file)
    adopt(home, B, file)

    assert places.known(home, file) == B
    old = places.get(home, A)
    assert old is not None
    assert old.places == ()


def test_records_live_without_the_hints(home: Layout, file: Path) -> None:
    adopt(home, A, file)
    home.path_hint(places._key(file)).write_bytes(b"torn")

    assert places.known(home, file) is None
    assert places.unchanged(home, file) is None
    record = places.get(home, A)
    assert record is not None
    assert record.places[0].is_as_it_was()


def test_an_index_is_a_file_and_a_checkpoint_at_once(home: Layout, file: Path) -> None:
    with Writer(home) as writer, writer.commit():
        for sha256, whole in ((A, False), (B, True)):
            places.adopt(writer, sha256, place(file), None)
            places.settle(writer, sha256, file, whole=whole)

    assert places.known(home, file) == A
    assert places.known(home, file, whole=True) == B


def test_several_places_of_the_same_bytes(home: Layout, file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"12345")
    adopt(home, A, file)
    adopt(home, A, other)

    with Writer(home) as writer, writer.commit():
        places.forget(writer, A, file)

    record = places.get(home, A)
    assert record is not None
    assert [p.path for p in record.places] == [other]


def test_a_file_just_written_is_not_settled(file: Path) -> None:
    assert place(file).is_settled
    os.utime(file)
    assert not place(file).is_settled
    assert not replace(place(file), seen="once").is_settled


def test_files_from_before_1970_are_files_too(home: Layout, file: Path) -> None:
    os.utime(file, ns=(-5_000_000_000, -5_000_000_000))

    adopt(home, A, file)

    assert places.unchanged(home, file) is not None


@pytest.mark.parametrize("raw", [b"", b"{}", b'{"sha256":"x"}', Record(A, B).to_bytes()[:-9]])
def test_a_damaged_record_is_corrupt_and_the_next_adoption_repairs_it(
    home: Layout, file: Path, raw: bytes
) -> None:
    adopt(home, A, file)
    home.adopted(A).write_bytes(raw)
    with pytest.raises(CorruptError):
        places.get(home, A)

    adopt(home, A, file)

    assert places.get(home, A) is not None
