"""What a run folder tells others: who trains in it, how it was started, how many steps there are, why it ended."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fixtures.training import Toy
from memcard.training._command import command
from memcard.training._folder import holder
from memcard.training.run_log import Run, lines, read_run

HOLD = """
import fcntl, os, sys
fd = os.open(sys.argv[1] + "/.lock", os.O_RDWR | os.O_CREAT)
fcntl.lockf(fd, fcntl.LOCK_EX)
print(os.getpid(), flush=True)
sys.stdin.read()
"""


def ended(folder):
    return [line for line in lines(folder) if line.get("event") == "ended"][-1]


def test_nobody_trains_in_a_folder_without_a_lock(tmp_path):
    assert holder(tmp_path) is None
    (tmp_path / ".lock").touch()
    assert holder(tmp_path) is None


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX locks")
def test_the_process_that_holds_the_lock_is_named_and_keeps_it(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        pid = int(other.stdout.readline())
        assert holder(tmp_path) == (pid if sys.platform == "linux" else 0)
        assert holder(tmp_path) is not None
        other.stdin.close()
    assert holder(tmp_path) is None


def test_this_process_is_named_too(tmp_path):
    with Toy().checkpointer(tmp_path / "a"):
        assert holder(tmp_path / "a") == os.getpid()
        assert holder(tmp_path / "a") == os.getpid()


def test_the_command_is_in_run_json(tmp_path):
    with Toy().checkpointer(tmp_path / "a"):
        pass
    found = read_run(tmp_path / "a").command
    assert found["argv"] == command()["argv"]
    assert found["argv"][0] == sys.executable
    assert (found["cwd"], found["pid"]) == (os.getcwd(), os.getpid())  # noqa: PTH109


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"steps": 3}, 3),
        ({"epochs": 2}, 8),
        ({"epochs": 1, "steps": 9}, 4),
        ({"epochs": 9, "steps": 2}, 2),
    ],
)
def test_the_loop_tells_how_many_steps_there_are(tmp_path, options, steps):
    toy = Toy()
    with toy.checkpointer(tmp_path / "a") as ck:
        for step, _ in ck.loop([0] * 4, **options):
            toy.step()
            ck.step(step)
        assert step == read_run(tmp_path / "a").steps == steps
    with toy.checkpointer(tmp_path / "a"):
        assert read_run(tmp_path / "a").steps == steps


def test_an_endless_loop_has_no_number_of_steps_unless_it_is_told(tmp_path):
    with Toy().checkpointer(tmp_path / "a") as ck:
        next(ck.loop(iter([1, 2]), epochs=2))
        assert read_run(tmp_path / "a").steps is None
        ck.aim(7)
        assert read_run(tmp_path / "a").steps == 7


def test_the_log_says_why_it_ended(tmp_path):
    toy = Toy()
    with pytest.raises(ValueError, match="broken"), toy.checkpointer(tmp_path / "a"):
        raise ValueError("broken")
    assert ended(tmp_path / "a")["error"] == "ValueError: broken"

    ck = Toy().checkpointer(tmp_path / "b", signals=True, every=1)
    next(ck.loop([0] * 4, steps=4))
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(SystemExit):
        ck.step(1)
    assert ended(tmp_path / "b")["signal"] == "SIGTERM"

    with toy.checkpointer(tmp_path / "c"):
        pass
    assert not {"error", "signal"} & set(ended(tmp_path / "c"))


def test_what_is_not_known_is_not_written(tmp_path):
    run = Run.new("a")
    run.write(tmp_path)
    assert read_run(tmp_path) == run
    assert b"steps" not in (tmp_path / "run.json").read_bytes()


def test_a_run_json_of_version_1_is_read_and_written_as_it_was(tmp_path):
    golden = Path(__file__).parents[2] / "golden" / "training_v1" / "begun_again"
    run = read_run(golden)
    assert (run.steps, run.command["launcher"][0], run.keep["hours"]) == (5000, "torchrun", 2.5)
    run.write(tmp_path)
    assert (tmp_path / "run.json").read_bytes() == (golden / "run.json").read_bytes()
