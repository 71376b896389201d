"""Starting a run again: the command that was noted, and when that is not possible."""

import os
import subprocess
import sys
import textwrap

import pytest

import memcard
from fixtures.runs import run_folder
from fixtures.training import Toy
from memcard.errors import LockedError, NotFoundError, UsageError
from memcard.jobs import runs
from memcard.training import _command
from memcard.training.run_log import read_run

SCRIPT = textwrap.dedent("""
    import sys, torch, memcard
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 2)
    stop = int(sys.argv[1])
    ck = memcard.Checkpointer("run", model=model, every=1, signals=False)
    for step, _ in ck.loop([0] * 8, start=ck.resume(), steps=6):
        ck.step(step, {"loss": 1.0})
        if step == stop:
            break
    ck.close()
""")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MEMCARD_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


HELD = textwrap.dedent("""
    from pathlib import Path
    from memcard.training._folder import RunFolder
    from memcard.training.keep import Keep
    RunFolder(Path("run"), Keep(), {}).close()
""")


def test_the_command_is_noted_as_it_was_given(tmp_path):
    (tmp_path / "train.py").write_text(HELD)
    argv = [sys.executable, "-u", "train.py", "--lr", "0.1"]
    subprocess.run(argv, cwd=tmp_path, check=True)

    found = runs.restart(str(tmp_path / "run"))

    assert (found.argv, found.cwd) == (tuple(argv), str(tmp_path))
    assert (found.step, found.trusted) == (0, False)


@pytest.mark.slow
def test_the_very_command_is_started_in_its_folder_and_goes_on(tmp_path):
    (tmp_path / "train.py").write_text(SCRIPT)
    argv = [sys.executable, "-u", "train.py", "3"]
    subprocess.run(argv, cwd=tmp_path, check=True, capture_output=True)

    found = runs.restart("run")

    assert found.argv == tuple(argv)
    assert (found.cwd, found.step, found.trusted) == (str(tmp_path), 3, True)
    code = "from memcard.jobs import runs; from memcard.jobs._runs_resume import start; start(runs.restart('run'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "resuming run after step 3" in done.stderr
    assert runs.show("run").report.state == "done"


def test_a_running_one_is_not_started_twice(tmp_path):
    with Toy().checkpointer(tmp_path / "a"), pytest.raises(LockedError, match=str(os.getpid())):
        runs.restart(str(tmp_path / "a"))


def test_what_is_missing_is_listed_at_once(tmp_path):
    command = {"argv": ["/nowhere/python", "train.py"], "cwd": str(tmp_path / "gone")}
    folder = run_folder(tmp_path / "a", command=command)
    with pytest.raises(NotFoundError) as caught:
        runs.restart(str(folder))
    assert "gone, the folder it was started in" in str(caught.value)
    assert "/nowhere/python cannot be run" in str(caught.value)

    command = {"argv": [sys.executable, "-u", "train.py"], "cwd": str(tmp_path)}
    run_folder(tmp_path / "a", command=command)
    with pytest.raises(NotFoundError, match=r"train\.py is not in"):
        runs.restart(str(folder))


def test_a_run_from_a_notebook_is_refused(tmp_path):
    folder = run_folder(tmp_path / "a", command={"pid": 1})
    with pytest.raises(UsageError, match="in a notebook or at a prompt"):
        runs.restart(str(folder))


def test_a_run_of_another_machine_is_told_and_not_trusted(tmp_path):
    command = {"argv": [sys.executable, "-V"], "cwd": str(tmp_path), "host": "elsewhere"}
    found = runs.restart(str(run_folder(tmp_path / "a", command=command)))
    assert found.notes == ("It was started on elsewhere.",)
    assert not found.trusted


def test_the_launcher_of_several_processes_is_what_is_started(tmp_path, monkeypatch):
    argv = [sys.executable, "-m", "torch.distributed.run", "train.py"]
    command = {"argv": [sys.executable, "train.py"], "launcher": argv, "cwd": str(tmp_path)}
    (tmp_path / "train.py").write_text("")
    assert runs.restart(str(run_folder(tmp_path / "a", command=command))).argv == tuple(argv)

    monkeypatch.setenv("WORLD_SIZE", "2")
    if sys.platform == "linux":
        assert _command.command()["launcher"]
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert "launcher" not in _command.command()


def test_at_a_prompt_no_command_is_noted(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    toy = Toy()
    memcard.Checkpointer(tmp_path / "a", model=toy.model, signals=False).close()
    noted = read_run(tmp_path / "a").command
    assert "argv" not in noted
    assert noted["pid"] == os.getpid()
