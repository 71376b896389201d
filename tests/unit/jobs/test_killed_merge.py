"""A merge that is killed without warning: the old file stays, and the next run cleans up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures import small
from memcard.core.atomic import sweep
from memcard.jobs.merge import merge

# Stops in the middle for good: the file gets its name only after the listener has returned.
CHILD = """
import sys, time
from memcard.jobs.merge import merge

def stop(event):
    if getattr(event, "phase", "") == "bake":
        print("in the middle", flush=True)
        time.sleep(600)

merge("weighted_average", sys.argv[1:3], out=sys.argv[3], overwrite=True, progress=stop)
"""


@pytest.fixture
def pair(tmp_path: Path) -> list[Path]:
    return [small.save(tmp_path / f"{i}.safetensors", small.weights(i)) for i in (1, 2)]


@pytest.fixture
def child(tmp_path: Path, pair: list[Path]) -> Iterator[subprocess.Popen[str]]:
    """A process in the middle of a merge over an old file."""
    (tmp_path / "out.safetensors").write_bytes(b"old")
    arguments = [sys.executable, "-c", CHILD, *map(str, pair), str(tmp_path / "out.safetensors")]
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, text=True, env={**os.environ}
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in the middle\n"
        yield process
        process.kill()


def parts(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.suffix == ".part"]


def test_kill_9_leaves_the_old_file_and_the_next_run_no_litter(
    tmp_path: Path, pair: list[Path], child: subprocess.Popen[str]
) -> None:
    out = tmp_path / "out.safetensors"
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert out.read_bytes() == b"old"
    assert len(parts(tmp_path)) == 1

    merge("weighted_average", pair, out=out, overwrite=True)

    assert parts(tmp_path) == []
    assert sorted(small.load(out)) == ["a.weight", "b.bias", "b.weight", "scale"]


def test_the_part_of_a_living_process_is_not_swept(
    tmp_path: Path, pair: list[Path], child: subprocess.Popen[str]
) -> None:
    out = tmp_path / "out.safetensors"
    (living,) = parts(tmp_path)

    merge("weighted_average", pair, out=out, overwrite=True)

    assert parts(tmp_path) == [living]
    assert sweep(out) == ()
    assert child.poll() is None
