"""kill -9, torn writes, a full disk and I/O errors at every call that changes the disk."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.stories import STORIES

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="children are made with fork")

QUICK = [("add", "torn"), ("add_move", "torn"), ("gc", "torn")]
SLOW = [(s, f) for s in STORIES for f in ("torn", "EIO", "ENOSPC", "full") if (s, f) not in QUICK]


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory where there is one: the calls are the same, and fsync costs nothing."""
    shm = Path("/dev/shm")
    folder = tempfile.mkdtemp(prefix="memcard-", dir=shm if shm.is_dir() else None)
    yield Path(folder)
    shutil.rmtree(folder)


def told(story: str, fault: str, root: Path) -> dict[str, object]:
    script = Path(__file__).parent / "stories.py"
    done = subprocess.run(
        [sys.executable, script, story, fault, root / "root"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    assert found["wrong"] == [], done.stderr
    return found


@pytest.mark.parametrize(("story", "fault"), QUICK)
def test_a_fault_at_any_call_loses_nothing(story: str, fault: str, memory: Path) -> None:
    found = told(story, fault, memory)

    assert found["calls"] >= 25  # type: ignore[operator]


@pytest.mark.slow
@pytest.mark.parametrize(("story", "fault"), SLOW)
def test_a_fault_at_any_call_of_any_verb_loses_nothing(
    story: str, fault: str, memory: Path
) -> None:
    found = told(story, fault, memory)

    assert found["calls"] >= 5  # type: ignore[operator]
