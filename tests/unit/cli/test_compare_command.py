"""memcard compare from the command line."""

import json
from pathlib import Path

import pytest

from memcard.cli.main import main

QUICK = ["--steps", "1", "--cfg", "1"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("cells"))


def test_every_option_becomes_an_axis(
    cache: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "page.html"
    line = ["compare", "a rocket", "a red apple", "-c", "starter", "-c", "starter/raw", "--cfg", "1,3-5:2", "--steps", "1-2",
            "--sampler", "euler,DPM++ 2M", "--schedule", "karras", "--size", "64x64,72x64", "--lora", "starter/lora_pixel:0,.5",
            "--vae", "own", "--vae", "starter/vae_crisp", "--seed", "1-3", "--negative", "", "--negative", "blur, dark",
            "--set", "clip-skip=1", "--cache", cache, "-o", str(out), "--dry-run", "--json"]  # fmt: skip

    assert main(line) == 0

    facts = json.loads(capsys.readouterr().out)
    assert {name: len(labels) for name, labels in facts["axes"].items()} == {
        "checkpoint": 2, "lora": 2, "vae": 2, "prompt": 2, "cfg": 3, "steps": 2, "sampler": 2, "size": 2, "negative": 2,
        "seed": 3}  # fmt: skip
    assert facts["cells"] == facts["missing"] == 2**8 * 9
    assert facts["seconds"] > 0
    assert not out.exists()


def test_a_run_prints_its_files_and_the_next_makes_nothing(
    cache: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outs = [str(tmp_path / name) for name in ("grid.png", "page.html", "all")]
    line = ["compare", "a rocket", *QUICK, "--seed", "1-2", "--cache", cache, "-o", outs[0], "-o", outs[1], "-o", outs[2]]  # fmt: skip

    assert main(line) == 0
    first = capsys.readouterr()
    assert main([*line, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)

    assert first.out.splitlines() == [outs[0], outs[1], f"{outs[2]}/index.html", f"{outs[2]}/grid.png"]  # fmt: skip
    assert "2 pictures made" in first.err
    assert facts["made"] == 0
    assert [cell["values"]["seed"] for cell in facts["cells"]] == ["seed 1", "seed 2"]
    assert all(Path(file).is_file() for file in facts["files"])


def test_a_dry_run_says_how_many_and_how_long(
    cache: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "a rocket", *QUICK, "--seed", "1-5000", "--cache", cache, "--dry-run"]) == 0  # fmt: skip

    said = capsys.readouterr()
    assert "cells        5000" in said.out
    assert "about" in said.out
    assert "seed 1, seed 2, seed 3, seed 4, seed 5, seed 6, …" in said.out
    assert "nothing was made" in said.err


def test_all_that_cannot_be_read_is_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["compare", "a rocket", "--cfg", "x", "--steps", "1.5", "--seed", "9-1", "--size", "64", "--lora", "a:1-0",
            "--lora", "b:1", "--lora", "b:2"]  # fmt: skip

    assert main(line) == 2

    said = capsys.readouterr().err
    for part in ("--cfg 'x'", "--steps '1.5'", "--seed '9-1'", "--size '64'", "--lora a '1-0'", "named twice"):  # fmt: skip
        assert part in said


@pytest.mark.parametrize(
    ("options", "code", "why"),
    [
        (["--set", "clip_skip"], 2, "not NAME=VALUES"),
        (["--set", "colour=red"], 2, "no setting colour"),
        (["--cell", "3"], 2, "16<=x<=4096"),
        (["--seed", "1-2001"], 2, "--yes"),
        (["-c", "starter/none"], 6, "not in the starter"),
        (["-o", "nowhere/x.png"], 6, "no such folder"),
        (["-o", "x.jpg"], 2, ".png, .html, or a folder"),
        (["--steps", "0"], 2, "steps 0"),
        (["--text-encoder", "nowhere"], 6, "nowhere"),
    ],
)
def test_faults_have_their_exit_codes(
    options: list[str], code: int, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "a rocket", *options]) == code
    assert why in capsys.readouterr().err


def test_a_hole_is_told(cache: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["compare", "a rocket", *QUICK, "--sampler", "euler,ddim", "--schedule", "karras,trailing", "--cache", cache, "-o",
            str(tmp_path / "x.png")]  # fmt: skip

    assert main(line) == 0

    assert "Left out: DDIM has no schedule 'karras'" in capsys.readouterr().err
