"""Records of trainings: what is written, and that damage costs a line of a list and no more."""

import json
from pathlib import Path

import pytest

from memcard.store import trainings
from memcard.store.layout import Layout, create
from memcard.store.trainings import Training
from memcard.store.writer import Writer

GOLDEN = Path(__file__).parents[2] / "golden" / "training_v1"
A = Training("00000000000000aa", "neon", Path("/data/runs/neon").absolute())


@pytest.fixture
def home(tmp_path):
    home = Layout(tmp_path / "home")
    create(home)
    return home


def note(home, *many):
    with Writer(home) as writer, writer.commit():
        for one in many:
            trainings.note(writer, one)


def test_what_was_noted_is_there_until_it_is_forgotten(home):
    b = Training("00000000000000bb", "ü b", Path("/somewhere").absolute())
    note(home, A, b, A)
    assert list(trainings.every(home)) == [A, b]
    with Writer(home) as writer, writer.commit():
        trainings.forget(writer, A.id)
        trainings.forget(writer, A.id)
    assert list(trainings.every(home)) == [b]


def test_a_run_that_moved_is_noted_anew(home):
    note(home, A, Training(A.id, A.name, Path("/elsewhere").absolute()))
    assert [one.folder for one in trainings.every(home)] == [Path("/elsewhere").absolute()]


def test_records_that_are_damaged_or_foreign_are_passed_over(home):
    note(home, A)
    raw = trainings.path_of(home, A.id).read_bytes()
    for name, text in (
        ("00000000000000b1", raw.replace(b"neon", b"nean")),
        ("00000000000000b2", b"{}"),
        ("00000000000000b3", b"\xff"),
        (
            "00000000000000b4",
            json.dumps({"id": "00000000000000b4", "name": "x", "folder": "rel"}).encode(),
        ),
        ("strange", raw),
    ):
        trainings.path_of(home, name).write_bytes(text)
    assert list(trainings.every(home)) == [A]


def test_the_record_of_version_1_is_read_and_written_as_it_was(home):
    golden = (GOLDEN / "00000000000000aa.json").read_bytes()
    home.shelf("trainings").mkdir()
    trainings.path_of(home, A.id).write_bytes(golden)
    assert list(trainings.every(home)) == [A]
    trainings.path_of(home, A.id).unlink()
    note(home, A)
    assert trainings.path_of(home, A.id).read_bytes() == golden
