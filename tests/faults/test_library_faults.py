"""kill -9, torn writes, a full disk and I/O errors at every call that changes the disk."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from faults.program import WHOLE, run
from faults.stories import STORIES

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="children are made with fork")

FAULTS = ("torn", "EIO", "ENOSPC", "full", "broken")
KINDS = {"torn": "killed", "EIO": "EIO once", "ENOSPC": "ENOSPC once", "full": "ENOSPC from there on",
         "broken": "EIO from there on"}  # fmt: skip
QUICK = [("add_move", "torn"), ("card", "torn"), ("undo", "full")]
SLOW = [(s, f) for s in STORIES for f in FAULTS if (s, f) not in QUICK]
LEAST = {"add_move": 50, "pack": 60, "card": 5, "verify": 5, "export": 4, "pack_again": 3}


def struck(story: str, fault: str, each: int, memory: Path) -> None:
    """Strike one of ``each`` calls, another one for each kind of fault, so that together they strike all."""
    each = 1 if WHOLE else each
    first = 1 + FAULTS.index(fault) % each
    found = run(KINDS[fault], "strike", story, fault, memory, str(each), str(first))

    assert found["places"] >= LEAST.get(story, 4) // each


@pytest.mark.parametrize(("story", "fault"), QUICK)
def test_a_fault_at_any_call_loses_nothing(story: str, fault: str, memory: Path) -> None:
    struck(story, fault, 3, memory)


@pytest.mark.slow
@pytest.mark.parametrize(("story", "fault"), SLOW)
def test_a_fault_at_any_call_of_any_verb_loses_nothing(
    story: str, fault: str, memory: Path
) -> None:
    struck(story, fault, 1 if fault == "torn" else 4, memory)
