"""Sharded trainings save on n processes and load on m, and what they saved survives kills and full disks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.warmed import server
from memcard.formats import sniff_file
from memcard.training.hooks.dcp import saves, verify

HERE = Path(__file__).parent


def torchrun(world: int, folder: Path, *tasks: str) -> None:
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(world)]
    done = subprocess.run(
        [sys.executable, *command, str(HERE / "ranks.py"), str(folder), *tasks],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def forked(world: int, folder: Path, *tasks: str) -> None:
    """Do the same with processes that need not import everything first."""
    code, _, err = server("torch").run("e2e.dcp.ranks", str(world), str(folder), *tasks)
    assert code == 0, err[-3000:]


@pytest.mark.slow
def test_fsdp2_saves_on_n_processes_and_loads_on_m(tmp_path: Path) -> None:
    forked(2, tmp_path, "save:2", "train", "async:2a", "train", "load:2", "load:2a")
    forked(
        1,
        tmp_path,
        "load:2",
        "load:2a",
        "train",
        "save:1",
        "train",
        "async:1a",
        "load:1",
        "load:1a",
    )
    torchrun(2, tmp_path, "load:1", "load:1a")

    hashes: dict[str, set[str]] = {}
    for name, _, digest in map(json.loads, (tmp_path / "hashes.jsonl").read_text().splitlines()):
        hashes.setdefault(name, set()).add(digest)
    assert {name: len(found) for name, found in hashes.items()} == {
        "2": 1,
        "2a": 1,
        "1": 1,
        "1a": 1,
    }
    assert len(set.union(*hashes.values())) == 4  # each of another state
    for path in saves(tmp_path):
        verify(path)
        kinds = {file.name: sniff_file(file) for file in path.iterdir()}
        assert kinds.pop("index.json") is None
        assert set(kinds.values()) == {"safetensors"}


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory where there is one: the calls are the same, and fsync costs nothing."""
    shm = Path("/dev/shm")
    folder = tempfile.mkdtemp(prefix="memcard-", dir=shm if shm.is_dir() else None)
    yield Path(folder)
    shutil.rmtree(folder, ignore_errors=True)


def struck(*words: object) -> dict[str, object]:
    code, out, err = server("torch").run("e2e.dcp.struck", *map(str, words))
    assert code == 0, err
    found: dict[str, object] = json.loads(out)
    assert found["faults"] == [], err
    return found


FAULTS = ("kill", "torn", "ENOSPC", "EIO", "full", "broken")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the children are forks")
@pytest.mark.parametrize(
    ("fault", "stride"),
    [("kill", 23), *(pytest.param(fault, 1, marks=pytest.mark.slow) for fault in FAULTS)],
)
def test_struck_anywhere_the_saves_before_are_whole(memory: Path, fault: str, stride: int) -> None:
    assert int(str(struck(fault, stride, memory)["places"])) > 60 / stride - 1


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the children are forks")
def test_processes_killed_at_random_times_leave_whole_saves(memory: Path) -> None:
    assert int(str(struck("random", 20, memory)["inside a save"])) > 0
