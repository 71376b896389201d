"""Libraries that someone forged: typed errors, bounded time and memory, and nothing outside is touched."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from faults.program import run

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="limits of memory and time are the system's"
)


@pytest.mark.parametrize("extent", ["quick", pytest.param("wide", marks=pytest.mark.slow)])
def test_a_forged_library_gives_typed_errors_in_bounded_memory(extent: str, memory: Path) -> None:
    found = run("question to a forged library", "hostile", extent, memory)

    assert found["places"] >= {"quick": 150, "wide": 450}[extent]
