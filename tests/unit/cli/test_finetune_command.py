"""memcard finetune from the command line: the plan, the result, the curve."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from fixtures import small
from memcard.cli._finetune_view import Curve
from memcard.cli.main import main
from memcard.core.progress import Notice, Progress


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEMCARD_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, colour in (("a red thing", "red"), ("a blue thing", "blue")):
        Image.new("RGB", (64, 64), colour).save(folder / f"{name}.png")
    return folder


def test_the_plan_says_what_will_be_done(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["finetune", "starter", str(pictures), "--out", "mine", "--lora", "8", "--dry-run"]

    assert main(command) == 0

    printed = capsys.readouterr()
    for part in (
        *("LoRA of rank 8, all", "2 pictures", "file name (2)", "64x64 (2)", "a red thing"),
        *("mine.safetensors", "and activations", "fp32 on"),
    ):
        assert part in printed.out, part
    assert "nothing was computed or written" in printed.err
    assert [p.name for p in pictures.parent.iterdir()] == ["pictures"]


def test_the_plan_as_json_has_every_setting(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [
        "--lora",
        "4",
        "--dora",
        "--epochs",
        "10",
        "--size",
        "64x64",
        "--no-buckets",
        "--flip",
    ]
    command = ["finetune", "starter", str(pictures), "-o", "m", *options, "--dry-run", "--json"]

    assert main(command) == 0

    told = json.loads(capsys.readouterr().out)["settings"]
    assert (told["rank"], told["dora"], told["buckets"], told["flip"]) == (4, True, False, True)
    assert told["steps"] == 10


def test_a_run_prints_its_files_and_how_to_try_them(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--lora", "2", "--steps", "1", "--batch", "1", "--prompt", "a red thing"]

    assert main(["finetune", "starter", str(pictures), "-o", "mine", *options]) == 0

    printed = capsys.readouterr()
    assert printed.out.startswith("mine.safetensors\n")
    assert "license" in printed.out
    assert "step 1  loss" in printed.err
    assert 'memcard generate "a red thing" -c starter --lora mine' in printed.err


@pytest.mark.parametrize(
    ("more", "code"),
    [
        (["--steps", "3", "--epochs", "1"], 2),
        (["--dora"], 2),
        (["--lora", "2", "--targets", "("], 2),
        (["--size", "50x50"], 2),
        (["--optimizer", "sgd"], 2),
    ],
)
def test_what_cannot_be_is_a_usage_error(pictures: Path, more: list[str], code: int) -> None:
    assert main(["finetune", "starter", str(pictures), "-o", "m", *more, "--dry-run"]) == code


def test_pictures_that_cannot_be_read_are_listed(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "broken.jpg").write_text("no")
    command = ["finetune", "starter", str(pictures), "-o", "m", "--dry-run"]

    assert main(command) == 4
    assert ": 1 file cannot be used: broken.jpg" in capsys.readouterr().err
    assert main([*command, "--skip-bad"]) == 0


def test_a_file_of_no_family_gets_advice_that_fits(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = small.save(tmp_path / "other.safetensors", {"a": np.zeros((3, 3), "f4")})

    assert main(["finetune", str(other), str(pictures), "-o", "m", "--dry-run"]) == 5

    said = capsys.readouterr().err
    assert "is of no family that memcard knows" in said
    assert "--dialect" not in said


def test_the_curve_falls_as_the_loss_does() -> None:
    curve = Curve()
    for step in range(200):
        mean = curve.add(1.0 - step / 200)
    text, plain = curve.text(20), curve.text(20, plain=True)

    assert len(text) == 20
    assert text[0] == "█"
    assert text[-1] == "▁"
    assert plain.isascii()
    assert 0 < mean < 0.2
    assert Curve().text() == ""
    curve = Curve()
    curve.add(1.0)
    assert curve.text() == "▁"


def test_off_a_terminal_notices_and_a_line_now_and_then_are_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from memcard.cli._finetune_view import watching

    with watching() as (hear, step):
        hear(Notice("This will take about 9 minutes on this machine."))
        hear(Progress("training", 1, 2, "steps"))
        for number in range(1, 50):
            step(SimpleNamespace(step=number, loss=0.5, lr=1e-4))

    assert capsys.readouterr().err.splitlines() == [
        "This will take about 9 minutes on this machine.",
        "step 1  loss 0.5000  rate 0.0001",
    ]
