"""memcard lora: extract, combine and block strengths from the command line."""

import json
from pathlib import Path

import pytest

from memcard.cli.main import main

TUNED = "starter/finetune_neon"
LORAS = ("starter/lora_pixel:0.8", "starter/lora_blueprint:0.5")


def test_extract_prints_the_error_layer_by_layer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "neon.safetensors"

    assert main(["lora", "extract", "starter", TUNED, "--rank", "8", "-o", str(out)]) == 0

    printed = capsys.readouterr().out
    assert "layer, worst first" in printed
    assert "error over all layers" in printed
    assert "are no layer of a LoRA" in printed
    assert out.is_file()


def test_extract_gives_the_same_facts_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "neon.safetensors"
    command = ["lora", "extract", "starter", TUNED, "--energy", "0.5", "-o", str(out), "--json"]

    assert main(command) == 0

    facts = json.loads(capsys.readouterr().out)
    assert 0.5 < facts["error"] < 0.8
    assert len({layer["rank"] for layer in facts["layers"]}) > 1


def test_combine_is_exact_unless_told_otherwise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "both.safetensors")

    assert main(["lora", "combine", *LORAS, "-o", out]) == 0
    assert "nothing: exact" in capsys.readouterr().out
    assert main(["lora", "combine", *LORAS, "--rank", "2", "-o", out, "--force", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["error"] > 0


def test_blocks_are_read_and_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "o.safetensors")
    bake = ["lora", "bake", "starter", LORAS[0], "--out", out, "--dry-run", "--json"]

    assert main([*bake, "--blocks", "up_blocks_1=0.5", "--blocks", "unet=0"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["recipe"]["node"]["params"]["blocks"] == "up_blocks_1=0.5\nunet=0.0"
    assert main([*bake, "--blocks", "OUTALL"]) == 0
    assert (
        "output_blocks_3_"
        in json.loads(capsys.readouterr().out)["recipe"]["node"]["params"]["blocks"]
    )
    assert main([*bake, "--blocks", "up_blocks_1"]) == 2
    assert "not REGEX=NUMBER" in capsys.readouterr().err


def test_convert_gives_other_names_and_comes_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there, back = str(tmp_path / "there.safetensors"), str(tmp_path / "back.safetensors")

    assert main(["lora", "convert", "starter/lora_pixel", "--to", "diffusers", "-o", there]) == 0
    assert "family   starter" in capsys.readouterr().out
    assert main(["lora", "convert", there, "--to", "kohya", "-o", back, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["modules"] == 115
    assert main(["diff", "starter/lora_pixel", back]) == 0
    assert main(["lora", "convert", there, "--to", "kohya", "-o", back]) == 2


def test_extract_keeps_the_residual_when_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, rest = str(tmp_path / "neon.safetensors"), str(tmp_path / "rest.safetensors")

    command = [
        "lora",
        "extract",
        "starter",
        TUNED,
        "--rank",
        "2",
        "-o",
        out,
        "--keep-residual",
        rest,
    ]
    assert main(command) == 0

    assert "of the fine-tune)" in capsys.readouterr().out
    assert Path(rest).is_file()
