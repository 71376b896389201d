"""A short run of every reader on changed seeds; the long runs are scripts/fuzz.py."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from fuzz.drive import in_process
from fuzz.oracle import WrongError, outcome
from fuzz.targets import SEEDS, TARGETS
from memcard.formats import FORMATS


@pytest.mark.parametrize("name", TARGETS)
def test_changed_files_give_only_typed_errors(name: str, tmp_path: Path) -> None:
    counts = in_process(name, 60, 3, tmp_path, most=200)

    findings = [f.read_text()[-2000:] for f in tmp_path.glob("*.txt")]
    assert findings == []
    assert counts.total() - counts["slowest_ms"] == 200


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_longer(name: str, tmp_path: Path) -> None:
    in_process(name, 200, 4, tmp_path, most=2500)

    assert [f.read_text()[-2000:] for f in tmp_path.glob("*.txt")] == []


@pytest.mark.parametrize("name", [name for name in TARGETS if name in set(FORMATS)])
def test_the_seeds_are_sound(name: str) -> None:
    """Those named after a case; what earlier runs found may be anything."""
    sound = [path for path in (SEEDS / name).iterdir() if not path.name.startswith("found-")]

    answers = [outcome(TARGETS[name], path.read_bytes(), Random(0), alarm=False) for path in sound]

    assert answers.count("ok") >= max(1, len(answers) - 3)


def honest_seed() -> bytes:
    return (SEEDS / "safetensors" / "safe_unsorted_header").read_bytes()


def test_the_seeds_are_small() -> None:
    files = [path for path in SEEDS.rglob("*") if path.is_file()]

    assert sum(path.stat().st_size for path in files) < 300_000
    assert {path.parent.name for path in files} == set(TARGETS)


def test_the_oracle_finds_a_reader_that_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    target = TARGETS["safetensors"]
    from memcard.formats.safetensors import Safetensors

    monkeypatch.setattr(Safetensors, "read", lambda self, name: memoryview(bytes(3)).toreadonly())

    with pytest.raises(WrongError):
        outcome(target, honest_seed(), Random(0), alarm=False)


def test_the_oracle_lets_an_untyped_error_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from memcard.formats.safetensors import Safetensors

    def broken(self: Safetensors, name: str) -> memoryview:
        raise KeyError(name)

    monkeypatch.setattr(Safetensors, "read", broken)

    with pytest.raises(KeyError):
        outcome(TARGETS["safetensors"], honest_seed(), Random(0), alarm=False)
