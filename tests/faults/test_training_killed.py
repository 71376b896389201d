"""A training may be killed, or its disk fail, at any moment: it resumes one whole state, and the newest."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from fixtures.warmed import server

EACH = int(
    os.environ.get("MEMCARD_FAULT_EACH", "5")
)  # 1: every call, as scripts/reliability.py does

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the children are forks")


def story(*words: object) -> dict[str, object]:
    code, out, err = server("torch").run("faults.training_killed", *map(str, words))
    assert code == 0, err
    found: dict[str, object] = json.loads(out)
    assert found["faults"] == [], err
    return found


@pytest.mark.parametrize(
    ("trials", "seed"),
    [pytest.param(5, 1, id="5"), pytest.param(20, 2, id="20", marks=pytest.mark.slow)],
)
def test_killed_at_random_times(memory: Path, trials: int, seed: int) -> None:
    found = story("random", trials, memory, seed)

    assert int(str(found["steps"])) >= trials
    assert int(str(found["most steps lost"])) <= 2  # the one being written, and the one after it


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["kill", "torn", "ENOSPC", "EIO", "full", "broken"])
def test_struck_at_many_calls(memory: Path, fault: str) -> None:
    assert int(str(story(fault, EACH, memory)["places"])) > 36 // EACH - 4  # a save has 38 calls
