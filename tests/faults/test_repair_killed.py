"""`repair` and `gc` of packs may be killed at any call: what could be read before can be read afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from faults.program import WHOLE

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the child is a fork")


def killed(verb: str, folder: Path, step: int) -> dict[str, object]:
    script = Path(__file__).with_name("repair_killed.py")
    done = subprocess.run(
        [sys.executable, str(script), verb, str(folder), str(step)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"MEMCARD_CACHE": ""},
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("verb", ["repair", "gc"])
def test_killed_here_and_there(verb: str, tmp_path: Path) -> None:
    found = killed(verb, tmp_path, 18)

    assert found["faults"] == []
    assert int(str(found["places"])) > 10


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["repair", "gc"])
def test_killed_at_every_call(verb: str, tmp_path: Path) -> None:
    assert killed(verb, tmp_path, 1 if WHOLE else 3)["faults"] == []
