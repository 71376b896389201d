"""Two writers, a packer, a collector without any time of grace, and a reader, at the same time."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from faults.program import WHOLE, run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="children are made with fork")


@pytest.mark.parametrize("seconds", [3, pytest.param(60 if WHOLE else 20, marks=pytest.mark.slow)])
def test_nobody_is_hurt(seconds: int, memory: Path) -> None:
    found = run("rounds of five processes", "together", str(seconds), memory)

    assert min(found["rounds"].values()) >= 1
