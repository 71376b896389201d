"""Power fails at any moment: whatever a disk may have kept of what was not synced, the library is whole."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from faults.program import WHOLE, run, told
from faults.stories import STORIES

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="names of handles are read from /proc"
)

QUICK = ["add_move", "gc"]


@pytest.mark.parametrize("story", QUICK)
def test_a_power_cut_loses_nothing(story: str, memory: Path) -> None:
    found = run("power cut", "replay", story, "quick", memory)

    assert found["places"] >= 30


@pytest.mark.slow
@pytest.mark.parametrize("story", STORIES)
def test_a_power_cut_in_any_verb_loses_nothing(story: str, memory: Path) -> None:
    found = run("power cut", "replay", story, "wide" if WHOLE else "some", memory)

    assert found["places"] >= 3


@pytest.mark.parametrize("forgotten", ["fsync", "syncdir"])
def test_the_replay_notices_a_sync_that_was_forgotten(forgotten: str, memory: Path) -> None:
    found, _ = told("replay", "add", "quick", memory, forgotten)

    assert len(found["wrong"]) >= 1
