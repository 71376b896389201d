"""Thinning out the saves of a run: what stays, the way back, and what the library still knows."""

import pytest

import memcard
from fixtures.runs import run_folder
from fixtures.training import Toy, write_save
from memcard.jobs import runs
from memcard.jobs.library import Library
from memcard.training.keep import Keep
from memcard.training.saves import name_of, numbered


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MEMCARD_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def trained(folder, steps=6, **options):
    toy = Toy()
    with memcard.Checkpointer(
        folder, model=toy.model, optimizer=toy.optimizer, every=1, signals=False,
        keep=Keep(last=steps), **options,
    ) as ck:  # fmt: skip
        for step in range(1, steps + 1):
            toy.step()
            ck.step(step, {"loss": abs(step - 2.5)})
    return toy


def steps(folder):
    return [step for step, _ in numbered(folder)]


def flip(path):
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)


def test_what_goes_is_in_the_trash_and_comes_back(tmp_path):
    folder = tmp_path / "neon"
    trained(folder)
    before = {p.name: p.read_bytes() for p in folder.glob("step-*")}

    done = runs.prune("neon", {"last": 1, "best": 1, "by": "loss"})

    assert steps(folder) == [2, 6]
    assert sorted(done.gone) == [1, 3, 4, 5]
    assert done.nbytes == sum(len(before[name_of(step)]) for step in (1, 3, 4, 5))
    assert [e.name for e in Library().ls("neon").entries] == ["neon/step-2", "neon/step-6"]
    assert Library().verify().ok

    Library().undo()

    assert {p.name: p.read_bytes() for p in folder.glob("step-*")} == before
    assert len(Library().ls("neon").entries) == 6
    assert all(entry.at_hand for entry in Library().ls("neon").entries)
    assert Library().verify().ok


def test_a_dry_run_touches_nothing(tmp_path):
    trained(tmp_path / "neon")
    done = runs.prune("neon", {"last": 2}, dry_run=True)
    assert (sorted(done.gone), done.entry) == ([1, 2, 3, 4], None)
    assert steps(tmp_path / "neon") == [1, 2, 3, 4, 5, 6]


def test_for_good_leaves_nothing_in_trash_or_library(tmp_path):
    trained(tmp_path / "neon")
    runs.prune("neon", {"last": 2}, for_good=True)
    assert steps(tmp_path / "neon") == [5, 6]
    assert Library().trashed() == ()
    assert len(Library().ls("neon").entries) == 2


def test_the_newest_whole_save_stays_when_those_after_it_are_damaged(tmp_path):
    trained(tmp_path / "neon")
    for step in (5, 6):
        flip(tmp_path / "neon" / name_of(step))

    done = runs.prune("neon", {"last": 1})

    assert steps(tmp_path / "neon") == [4, 6]
    assert done.stay[4] == "the newest whose every byte is right"


def test_what_a_checkpoint_was_made_of_stays(tmp_path):
    trained(tmp_path / "neon")
    runs.promote("neon", "3", "mine")
    done = runs.prune("neon", {"last": 1})
    assert steps(tmp_path / "neon") == [3, 6]
    assert done.stay[3] == "mine was made of it"


def test_without_rules_those_of_the_run_are_used(tmp_path):
    folder = run_folder(tmp_path / "a", keep=Keep(last=1, every=4).to_dict(), id="0" * 16)
    for step in range(1, 10):
        write_save(folder, step)
    runs.prune(str(folder))
    assert steps(folder) == [4, 8, 9]
    assert runs.prune(str(folder)).gone == {}


def test_saves_of_another_run_and_damaged_headers_are_left_alone(tmp_path):
    folder = run_folder(tmp_path / "a", id="0" * 16)
    for step in (1, 2, 4):
        write_save(folder, step)
    write_save(folder, 3, run="f" * 16)
    (folder / name_of(5)).write_bytes(b"torn")

    done = runs.prune(str(folder), {"last": 1})

    assert steps(folder) == [3, 4, 5]
    assert "look at it yourself" in done.stay[3]
    assert "look at it yourself" in done.stay[5]


def test_a_packed_save_keeps_its_name_when_the_file_goes(tmp_path):
    trained(tmp_path / "neon")
    Library().pack("neon/step-1")

    runs.prune("neon", {"last": 1})

    entries = {e.name: e.state for e in Library().ls("neon").entries}
    assert entries == {"neon/step-1": "packed", "neon/step-6": "at hand"}


def test_the_log_says_what_went(tmp_path):
    trained(tmp_path / "neon")
    runs.prune("neon", {"last": 5})
    assert (tmp_path / "neon" / "log.jsonl").read_text().count('"removed"') == 1
    assert runs.show("neon").report.state == "done"
