"""The server that forks fault programs: what fails in one is told, and the next one runs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from fixtures.warmed import Server

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the programs are forks")


def test_a_program_that_fails_is_told_and_the_next_one_runs(memory: Path) -> None:
    server = Server()

    unprepared, _, first = server.run("faults.strike", "no such story")
    failed, _, second = server.run("faults.strike", "card")
    code, out, _ = server.run("faults.strike", "card", "EIO", str(memory), "1000", "1")
    server.close()

    assert (unprepared, failed, code) == (1, 1, 0)
    assert "KeyError: 'no such story'" in first
    assert "IndexError" in second
    assert json.loads(out) == {"places": 1, "wrong": []}


def test_a_server_that_has_died_is_told() -> None:
    server = Server()
    server._process.kill()
    server._process.wait()

    with pytest.raises(AssertionError, match="has died"):
        server.run("faults.strike", "card")
    server.close()
