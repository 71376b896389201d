"""The library knows the saves of a training, and forgets what the training let go."""

import pytest

import memcard
from fixtures.training import Toy
from memcard.jobs.checkpointer import adopt, let_go
from memcard.jobs.library import Library
from memcard.store import trainings
from memcard.store.layout import Layout
from memcard.training.keep import Keep
from memcard.training.saves import name_of


def trained(folder, home, steps, toy=None, **options):
    toy = toy or Toy()
    with memcard.Checkpointer(
        folder,
        model=toy.model,
        optimizer=toy.optimizer,
        every=1,
        library=home,
        signals=False,
        **options,
    ) as ck:
        for step in range(ck.resume() + 1, steps + 1):
            toy.step()
            ck.step(step)
    return toy


def files(home):
    names = ("refs", "manifests", "skeletons", "cards")
    return {name: len([p for p in (home / name).rglob("*") if p.is_file()]) for name in names}


def test_saves_enter_the_library_where_they_lie(tmp_path):
    home = tmp_path / "home"
    trained(tmp_path / "neon", home, 3, keep=Keep(last=2))

    library = Library(home)
    rows = library.ls().entries

    assert [row.name for row in rows] == ["neon/step-2", "neon/step-3"]
    assert {row.kind for row in rows} == {"training"}
    assert library.locate("neon/step-3") == tmp_path / "neon" / name_of(3)
    assert library.verify().ok
    with library.open("neon/step-3") as found:
        assert "optimizer.0.weight.exp_avg" in found.specs


def test_what_was_let_go_leaves_nothing_behind(tmp_path):
    home = tmp_path / "home"
    trained(tmp_path / "neon", home, 2, keep=Keep(last=2))
    before = files(home)
    trained(tmp_path / "neon", home, 9, keep=Keep(last=2))

    assert files(home) == before == dict.fromkeys(before, 2)


def test_two_runs_of_one_name_do_not_meet(tmp_path):
    home = tmp_path / "home"
    for place in ("a", "b"):
        trained(tmp_path / place / "neon", home, 1, Toy(seed=ord(place)))

    names = [row.name for row in Library(home).ls().entries]

    assert len(names) == 2
    assert "neon/step-1" in names
    assert all(name.startswith("neon") and name.endswith("/step-1") for name in names)


def test_a_library_that_cannot_be_reached_stops_nothing(tmp_path, capsys):
    (tmp_path / "home").write_text("a file is no library")
    trained(tmp_path / "neon", tmp_path / "home", 3)

    assert len(list((tmp_path / "neon").glob("step-*"))) == 3
    assert capsys.readouterr().err.count("after a save:") == 1


def test_without_a_library_nothing_is_made(tmp_path, monkeypatch):
    monkeypatch.setenv("MEMCARD_HOME", str(tmp_path / "home"))
    trained(tmp_path / "neon", False, 2)
    assert not (tmp_path / "home").exists()


def test_letting_go_of_what_is_not_there_does_nothing(tmp_path):
    trained(tmp_path / "neon", False, 1)
    from memcard.training.saves import look

    save = look(tmp_path / "neon" / name_of(1), 1)
    home = Layout(tmp_path / "home")
    let_go(home, save)
    assert adopt(home, save) == "neon/step-1"
    let_go(home, save)
    let_go(home, save)
    assert Library(home.root).ls().entries == ()


@pytest.mark.parametrize("name", ["Checkpointer", "Keep", "ExactSampler", "exact", "EMA"])
def test_the_names_are_at_the_top(name):
    assert getattr(memcard, name).__name__ == name
    assert name in dir(memcard)


def test_a_training_is_noted_when_it_begins(tmp_path):
    home = tmp_path / "home"
    toy = Toy()
    with memcard.Checkpointer(tmp_path / "neon", model=toy.model, library=home, signals=False):
        (known,) = trainings.every(Layout(home))
    assert (known.name, known.folder) == ("neon", tmp_path / "neon")


def test_a_packed_save_outlives_its_file_and_the_rules(tmp_path):
    home = tmp_path / "home"
    trained(tmp_path / "neon", home, 2, keep=Keep(last=2))
    Library(home).pack("neon/step-1")
    trained(tmp_path / "neon", home, 4, keep=Keep(last=1))

    states = {row.name: row.state for row in Library(home).ls().entries}

    assert states == {"neon/step-1": "packed", "neon/step-4": "at hand"}
    Library(home).export("neon/step-1", tmp_path / "out.safetensors")


@pytest.mark.parametrize("place", ["neon", "home/runs/neon"])
def test_resume_takes_a_newer_save_from_the_packs(tmp_path, capsys, place):
    home, folder = tmp_path / "home", tmp_path / place
    before = trained(folder, home, 6)
    Library(home).pack("neon/step-5", "neon/step-6", replace_originals=True)
    (folder / name_of(6)).unlink(missing_ok=True)
    (folder / name_of(5)).unlink(missing_ok=True)
    capsys.readouterr()

    toy = trained(folder, home, 6, Toy(seed=1))

    told = capsys.readouterr().err
    assert f"{name_of(6)} was gone; written again from the packs" in told
    assert "after step 6" in told
    assert toy.bits()[:2] == before.bits()[:2]


def test_resume_takes_no_packed_save_of_another_run(tmp_path):
    home = tmp_path / "home"
    trained(tmp_path / "a" / "neon", home, 3)
    Library(home).pack("neon/step-3")

    trained(tmp_path / "b" / "neon", home, 1, Toy(seed=1))

    assert not (tmp_path / "b" / "neon" / name_of(3)).exists()
