"""kill -9, torn writes, a full disk and I/O errors at every call that changes the disk."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from faults.program import run
from faults.stories import STORIES

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="children are made with fork")

FAULTS = ("torn", "EIO", "ENOSPC", "full", "broken")
KINDS = {"torn": "killed", "EIO": "EIO once", "ENOSPC": "ENOSPC once", "full": "ENOSPC from there on",
         "broken": "EIO from there on"}  # fmt: skip
QUICK = [("add_move", "torn"), ("card", "torn"), ("undo", "full")]
SLOW = [(s, f) for s in STORIES for f in FAULTS if (s, f) not in QUICK]
LEAST = {"add_move": 50, "pack": 60, "card": 5, "verify": 5, "export": 4, "pack_again": 3}


@pytest.mark.parametrize(("story", "fault"), QUICK)
def test_a_fault_at_any_call_loses_nothing(story: str, fault: str, memory: Path) -> None:
    found = run(KINDS[fault], "strike", story, fault, memory)

    assert found["places"] >= LEAST.get(story, 8)


@pytest.mark.slow
@pytest.mark.parametrize(("story", "fault"), SLOW)
def test_a_fault_at_any_call_of_any_verb_loses_nothing(
    story: str, fault: str, memory: Path
) -> None:
    found = run(KINDS[fault], "strike", story, fault, memory)

    assert found["places"] >= LEAST.get(story, 4)
