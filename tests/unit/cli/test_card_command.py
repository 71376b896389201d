"""memcard card as people type it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fixtures import sidecars
from fixtures.sidecars import write
from memcard.cli.card import _STYLES
from memcard.cli.main import main
from memcard.jobs.card import WRITES
from memcard.jobs.resolve import starter_folder


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    path = tmp_path / "x.safetensors"
    path.write_bytes((starter_folder() / "lora_pixel.safetensors").read_bytes())
    return path


def test_each_field_is_shown_with_who_says_it(
    lora: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(lora.with_suffix(".civitai.info"), sidecars.CIVITAI)

    assert main(["card", str(lora)]) == 0

    out, err = capsys.readouterr()
    rows = {line.split()[0]: line for line in out.splitlines()}
    assert rows["author"].endswith("civitai_info")
    assert rows["settings.cfg"].endswith("memcard_metadata")
    assert rows["permissions.allowDerivatives"].split()[1:] == ["True", "civitai_info"]
    assert "note: title: civitai_info says 'Oil Brush', modelspec says" in err


def test_json_has_the_whole_card(lora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["card", str(lora), "--json"]) == 0

    facts = json.loads(capsys.readouterr().out)
    assert facts["memcard_card"] == 1
    assert facts["origin"]["title"] == "modelspec"


def test_nothing_known_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "x.safetensors", b"\x08\0\0\0\0\0\0\0{}      ")

    assert main(["card", str(path)]) == 1
    assert capsys.readouterr().out == "Nothing is said about it.\n"


def test_set_shows_the_new_card_and_where_it_went(
    lora: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["card", str(lora), "--set", "remarks=a = b", "--set", "cfg=5"]) == 0

    out, err = capsys.readouterr()
    assert any(
        line.split() == ["settings.cfg", "5", "memcard_sidecar"] for line in out.splitlines()
    )
    assert err.endswith(f"written: {lora.with_suffix('.memcard.json')}\n")
    assert json.loads(lora.with_suffix(".memcard.json").read_text("utf-8"))["remarks"] == "a = b"


def test_a_dry_run_shows_the_sidecar(lora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["card", str(lora), "--write", "modelspec-sidecar", "--dry-run"]) == 0

    out, err = capsys.readouterr()
    assert json.loads(out)["written"] is False
    assert "nothing was written" in err
    assert list(lora.parent.iterdir()) == [lora]


@pytest.mark.parametrize(
    "wrong",
    [
        ["--set", "titel=x"],
        ["--set", "title"],
        ["--set", "=x"],
        ["--write", "xml"],
        ["--set", "title=x", "--write", "a1111"],
    ],
)
def test_wrong_usage_ends_with_2_and_writes_nothing(lora: Path, wrong: list[str]) -> None:
    assert main(["card", str(lora), *wrong]) == 2
    assert list(lora.parent.iterdir()) == [lora]


def test_what_a_terminal_would_obey_is_spelled_out(
    lora: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(lora.with_suffix(".memcard.json"), {"title": "\x1b]0;owned\x07red"})

    main(["card", str(lora)])

    assert "\x1b" not in capsys.readouterr().out


def test_the_command_offers_what_the_job_writes() -> None:
    assert tuple(WRITES) == _STYLES
