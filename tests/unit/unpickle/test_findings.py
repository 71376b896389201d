from __future__ import annotations

import pytest

from memcard.core.limits import Limits
from memcard.errors import CorruptError, UnsafeError
from memcard.unpickle.findings import Findings


def test_nothing_found_is_no_error() -> None:
    Findings("x").raise_any()


def test_code_beats_damage_and_both_are_listed() -> None:
    findings = Findings("x")
    findings.faults.append("storage '0' is missing")
    findings.ask("os.system at byte 2")

    with pytest.raises(UnsafeError, match=r"x: asks .*os\.system.*missing.*--salvage") as caught:
        findings.raise_any()

    assert caught.value.faults == ("os.system at byte 2", "storage '0' is missing")


def test_salvage_lets_code_pass_and_damage_never() -> None:
    findings = Findings("x")
    findings.ask("os.system at byte 2")
    findings.raise_any(salvage=True)
    findings.faults.append("broken")

    with pytest.raises(CorruptError, match="broken") as caught:
        findings.raise_any(salvage=True)

    assert caught.value.faults == ("broken",)


def test_nonsense_is_damage_unless_it_is_part_of_an_attack() -> None:
    findings = Findings("x")
    findings.odd.append("persistent id: not a storage")
    with pytest.raises(CorruptError, match="not a storage"):
        findings.raise_any()

    findings.ask("os.system at byte 2")

    findings.raise_any(salvage=True)
    assert findings.unsafe().faults == ("os.system at byte 2", "persistent id: not a storage")


def test_a_file_of_many_names_does_not_fill_the_memory() -> None:
    findings = Findings("x", Limits(asked=3))
    for i in range(100):
        findings.ask(f"name {i}")

    assert list(findings.asked) == ["name 0", "name 1", "name 2", "and more than 3 others"]


def test_the_note_of_a_salvaged_file_is_plain() -> None:
    findings = Findings("x")
    findings.ask("os.system at byte 2")

    note = findings.salvage_note()

    assert note.startswith("DANGER")
    assert "os.system at byte 2. Nothing was run" in note
