"""The library on the command line: what it prints, and how it ends."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from fixtures import small
from memcard.cli.main import main


@pytest.fixture
def neon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEMCARD_HOME", str(tmp_path / "home"))
    path = small.save(tmp_path / "neon.safetensors", small.weights(1), {"note": "\x1b[31mred"})
    os.utime(path, ns=(1_600_000_000_000_000_000, 1_600_000_000_000_000_000))
    return path


def said(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    code = main([str(arg) for arg in args])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_round_through_the_library(
    neon: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = said(capsys, "add", neon)
    assert code == 0
    assert "new  in place" in out
    assert "unchanged" in said(capsys, "add", neon)[1]
    assert said(capsys, "ls")[1].splitlines()[1].startswith("neon  ")
    assert str(neon) in said(capsys, "show", "neon")[1]
    copy = tmp_path / "copy.safetensors"
    code, out, _ = said(capsys, "export", "neon", copy)
    assert (code, copy.read_bytes()) == (0, neon.read_bytes())
    assert "as it was added" in out

    code, out, err = said(capsys, "rm", "neon")
    assert (code, out) == (0, "taken out of the library: neon\n")
    assert f"stays where it is: {neon}" in err
    assert said(capsys, "ls")[0] == 1
    assert "neon" in said(capsys, "undo", "--list")[1]
    assert said(capsys, "undo")[1].startswith("put back: neon (rm, ")
    assert said(capsys, "undo", "--list")[0] == 1
    assert said(capsys, "gc")[1].startswith("put into the trash: 0 files")


@pytest.mark.parametrize(
    "args",
    [
        ("ls",),
        ("show", "neon"),
        ("rm", "neon", "--dry-run"),
        ("gc", "--dry-run"),
        ("undo", "--list"),
        ("export", "neon", "out.safetensors"),
        ("add", "neon.safetensors"),
    ],
)
def test_the_same_facts_as_json(
    neon: Path,
    args: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(neon.parent)
    said(capsys, "add", neon)

    code, out, _ = said(capsys, *args, "--json")

    assert code == (1 if args[0] == "undo" else 0)
    assert isinstance(json.loads(out), dict | list)
    assert "\x1b" not in out


def test_moving_is_only_done_when_asked(neon: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "add", neon)
    assert neon.exists()

    said(capsys, "add", neon, "--move")

    assert not neon.exists()
    assert "the library's own" in said(capsys, "show", "neon")[1]
    assert said(capsys, "inspect", "neon")[0] in (
        0,
        6,
    )  # 6 until names of the library are references


def test_errors_have_their_codes(
    neon: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(capsys, "ls")[0] == 6
    said(capsys, "add", neon)

    assert said(capsys, "show", "nothing")[0] == 6
    assert said(capsys, "export", "neon", neon)[0] == 2
    assert said(capsys, "add", neon, "--name", "a@b")[0] == 2
    small.save(neon, small.weights(2))
    code, _, err = said(capsys, "export", "neon", tmp_path / "out")
    assert code == 8
    assert "memcard add" in err
    neon.unlink()
    assert said(capsys, "export", "neon", tmp_path / "out")[0] == 6
    (tmp_path / "home" / "library.json").write_text(
        '{"format":"memcard-library","id":"x","version":9}'
    )
    assert said(capsys, "ls")[0] == 5
