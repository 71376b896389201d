from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from memcard.errors import LockedError
from memcard.store import layout, writer
from memcard.store.layout import Layout
from memcard.store.writer import Writer, living, sweep

CHILD = """
import sys, time
from pathlib import Path
from memcard.store.layout import Layout
from memcard.store.writer import Writer

with Writer(Layout(Path(sys.argv[1]))) as writer:
    writer.part().write_bytes(b"half")
    with writer.commit():
        print("at work", flush=True)
        time.sleep(600)
"""


@pytest.fixture
def home(tmp_path: Path) -> Layout:
    found = Layout(tmp_path / "home")
    layout.create(found)
    return found


@pytest.fixture
def other(home: Layout) -> Iterator[subprocess.Popen[str]]:
    """Another process in the middle of writing, with the lock."""
    command = [sys.executable, "-c", CHILD, str(home.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "at work\n"
        yield process
        process.kill()


def litter(home: Layout) -> int:
    return len([*home.tmp.iterdir(), *home.leases.iterdir()])


def test_a_file_is_whole_or_not_there(home: Layout) -> None:
    target = home.root / "a" / "b" / "c.json"
    with Writer(home) as one:
        one.write(target, b"first")
        one.write(target, b"second")

    assert target.read_bytes() == b"second"
    assert litter(home) == 0


def interrupted(home: Layout) -> None:
    with Writer(home) as one:
        one.part().write_bytes(b"half")
        raise KeyboardInterrupt


def test_an_error_leaves_no_litter(home: Layout) -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupted(home)

    assert litter(home) == 0


def test_what_a_living_writer_has_is_left_alone(home: Layout, other: subprocess.Popen[str]) -> None:
    with Writer(home) as one:
        one.write(home.root / "x", b"x")

        assert living(home) == 2

    assert litter(home) == 2
    assert sweep(home) == ()


def test_what_a_killed_writer_left_is_swept_by_the_next(
    home: Layout, other: subprocess.Popen[str]
) -> None:
    other.kill()
    other.wait()
    assert litter(home) == 2

    with Writer(home):
        pass

    assert litter(home) == 0


def test_who_waits_too_long_for_the_lock_is_told(
    home: Layout, other: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "PATIENCE", 0.1)

    with (
        Writer(home) as one,
        pytest.raises(LockedError, match="another memcard"),
        one.commit(),
    ):
        pass


def test_the_lock_of_a_killed_writer_is_free(home: Layout, other: subprocess.Popen[str]) -> None:
    other.kill()
    other.wait()

    with Writer(home) as one, one.commit():
        one.write(home.root / "x", b"x")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
@pytest.mark.filterwarnings("ignore:.*fork")  # from Python 3.12 on, if there are threads
def test_a_process_forked_within_a_commit_does_not_hold_the_lock(
    home: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training forks data workers while another thread takes a save into the library."""
    monkeypatch.setattr(writer, "PATIENCE", 0.2)
    with Writer(home) as one, one.commit():
        child = os.fork()
        if child == 0:
            signal.pause()
    try:
        with Writer(home) as other, other.commit():
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_files_that_are_not_ours_are_never_swept(home: Layout) -> None:
    with Writer(home):
        pass
    mine = [home.tmp / "mine", home.leases / "x", home.tmp / ("a" * 16 + "-b")]
    for path in mine:
        path.write_bytes(b"mine")
    (home.tmp / ("b" * 16 + "-1")).symlink_to(mine[0])

    sweep(home)

    assert [path.read_bytes() for path in mine] == [b"mine"] * 3
    assert mine[0].exists()
