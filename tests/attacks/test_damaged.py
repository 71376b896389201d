"""Every damaged file gets the right verdict, cheaply, in words that name what is wrong."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from attacks.damaged import DAMAGED
from attacks.worker import EXIT_CODES, VERDICTS, judge


@pytest.fixture(scope="session")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Write all files, then ask about each in one process that has 200 MB and 5 s for it."""
    files = {}
    for case, damage in DAMAGED.items():
        folder = tmp_path_factory.mktemp(case, numbered=False)
        files[case] = damage.make(folder)
    found = judge(files, tmp_path_factory.mktemp("out"))
    return {case: (files[case], found[case]) for case in files}


@pytest.mark.parametrize("case", DAMAGED)
def test_the_verdict_is_right_and_the_message_concrete(
    case: str, damaged: dict[str, tuple[Path, dict[str, Any]]]
) -> None:
    file, found = damaged[case]
    error, told = found["open"].get("error"), found["open"].get("message", "")

    assert error in VERDICTS, found["open"]
    assert VERDICTS[error] in DAMAGED[case].verdicts, told
    assert str(file) in told
    rest = told.replace(str(file), "")
    assert DAMAGED[case].says in rest
    # Where no word is expected, a number or a name has to be there.
    assert DAMAGED[case].says or re.search(r"\d|'|\"|\w+\.\w+", rest), told
    assert rest.rstrip().endswith("."), told
    assert found["open"]["faults"]


@pytest.mark.parametrize("case", DAMAGED)
def test_it_costs_little_and_the_commands_agree(
    case: str, damaged: dict[str, tuple[Path, dict[str, Any]]]
) -> None:
    _, found = damaged[case]
    code = EXIT_CODES[found["open"]["error"]]

    assert found["open"]["seconds"] < 5
    assert found["inspect"]["code"] == code, found["inspect"]
    assert found["convert"]["code"] == code, found["convert"]
    assert found["written"] == []
    if found["open"]["error"] != "UnsafeError":
        # Salvage turns no check of the structure off.
        assert found["salvage"].get("error") == found["open"]["error"], found["salvage"]
