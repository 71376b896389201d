"""Every hostile file fires elsewhere, and makes memcard run nothing; the verdict is the right one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from attacks.hostile import HOSTILE
from attacks.worker import EXIT_CODES, VERDICTS, careless, judge
from fixtures.digests import sha256
from fixtures.torch_archive import ONE_DATA


@dataclass(frozen=True)
class Outcome:
    fired: dict[str, bool]  # the careless loader ran it
    complaints: str
    files: dict[str, Path]
    judged: dict[str, dict[str, Any]]
    ran: dict[str, bool]  # memcard ran it


def forge(where: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Write every file; return the files and the markers they would make."""
    files, markers = {}, {}
    for case, hostile in HOSTILE.items():
        folder = where / case
        folder.mkdir(parents=True)
        markers[case] = where / f"{case}.fired"
        files[case] = hostile.make(folder, str(markers[case]))
    return files, markers


@pytest.fixture(scope="session")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    files, markers = forge(tmp_path_factory.mktemp("live"))
    complaints = ""
    for reader in sorted({hostile.reader for hostile in HOSTILE.values()}):
        chosen = [file for case, file in files.items() if HOSTILE[case].reader == reader]
        complaints += careless(reader, *chosen)
    fired = {case: marker.exists() for case, marker in markers.items()}
    files, markers = forge(tmp_path_factory.mktemp("judged"))
    judged = judge(files, tmp_path_factory.mktemp("out"))
    ran = {case: marker.exists() for case, marker in markers.items()}
    return Outcome(fired, complaints, files, judged, ran)


@pytest.mark.parametrize("case", HOSTILE)
def test_the_payload_is_live_elsewhere(case: str, outcome: Outcome) -> None:
    assert outcome.fired[case], "\n".join(
        line for line in outcome.complaints.splitlines() if f"/{case}/" in line
    )


@pytest.mark.parametrize("case", HOSTILE)
def test_memcard_runs_nothing_and_has_the_right_verdict(case: str, outcome: Outcome) -> None:
    found, file = outcome.judged[case], str(outcome.files[case])

    assert not outcome.ran[case]
    assert found["open"].get("error") in VERDICTS, found["open"]
    assert VERDICTS[found["open"]["error"]] in HOSTILE[case].verdicts, found["open"]["message"]
    assert file in found["open"]["message"]
    assert found["open"]["faults"]
    assert found["open"]["seconds"] < 5


@pytest.mark.parametrize("case", HOSTILE)
def test_the_commands_end_with_the_code_of_the_verdict(case: str, outcome: Outcome) -> None:
    found = outcome.judged[case]
    code = EXIT_CODES[found["open"]["error"]]

    assert found["inspect"]["code"] == code, found["inspect"]
    assert f'"{VERDICTS[found["open"]["error"]]}"' in found["inspect"]["out"]
    assert found["convert"]["code"] == code, found["convert"]
    assert found["written"] == []


@pytest.mark.parametrize("case", HOSTILE)
def test_salvage_gives_tensors_or_a_typed_refusal(case: str, outcome: Outcome) -> None:
    found = outcome.judged[case]["salvage"]

    assert not outcome.ran[case]
    if HOSTILE[case].honest:
        assert found["tensors"]["w"] == sha256(ONE_DATA["0"]), found
        assert any("Nothing was run" in note for note in found["notes"])
    else:
        assert found.get("error", "UnsafeError") in VERDICTS, found


@pytest.mark.parametrize("case", [case for case, hostile in HOSTILE.items() if hostile.honest])
def test_a_refused_program_is_named_with_its_place(case: str, outcome: Outcome) -> None:
    assert any(" at byte " in fault for fault in outcome.judged[case]["open"]["faults"])
