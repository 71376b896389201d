"""memcard bake as people use it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fixtures import small
from memcard.cli.main import main
from memcard.recipes.yaml_form import from_yaml


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    for seed, name in enumerate(("one", "two"), 1):
        small.save(tmp_path / f"{name}.safetensors", small.weights(seed))
    models = [{"model": name, "parameters": {"weight": 1}} for name in ("one", "two")]
    path = tmp_path / "merge.yml"
    path.write_text(
        json.dumps({"merge_method": "linear", "models": models, "tokenizer_source": "base"})
    )
    return path


def test_a_configuration_of_mergekit_becomes_a_checkpoint(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bake", str(recipe), "--out", str(tmp_path / "out.safetensors"), "--json"]) == 0

    facts = json.loads(capsys.readouterr().out)
    assert facts["written"] is True
    assert "tokenizer_source is about the tokenizer" in facts["notes"][0]
    assert (tmp_path / "out.safetensors").is_file()


def test_a_recipe_is_printed_and_bakes_to_the_same_bytes(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bake", str(recipe), "--print", "yaml"]) == 0
    text = capsys.readouterr().out
    (tmp_path / "again.yaml").write_text(text, "utf-8")

    assert main(["bake", str(recipe), "--out", str(tmp_path / "1.safetensors")]) == 0
    assert (
        main(["bake", str(tmp_path / "again.yaml"), "--out", str(tmp_path / "2.safetensors")]) == 0
    )

    assert from_yaml(text)
    assert (tmp_path / "1.safetensors").read_bytes() == (tmp_path / "2.safetensors").read_bytes()


@pytest.mark.parametrize("command", ["bake", "merge"])
def test_a_report_is_drawn_and_told(
    command: str, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [str(tmp_path / f"{name}.safetensors") for name in ("one", "two")]
    what = [str(recipe)] if command == "bake" else ["weighted_average", *names]
    paths = ["--out", str(tmp_path / "out.safetensors"), "--report", str(tmp_path / "r.png")]

    assert main([command, *what, *paths]) == 0

    told = capsys.readouterr().out
    assert "A  one.safetensors\nB  two.safetensors\n" in told
    assert "far from" in told
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")


def test_a_report_that_cannot_be_drawn_stops_the_merge(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.safetensors"

    assert main(["bake", str(recipe), "--out", str(out), "--report", "r.jpg"]) == 2

    assert "end the name in .png" in capsys.readouterr().err
    assert not out.exists()


def test_without_out_nothing_is_baked(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bake", str(recipe)]) == 2
    assert "--out" in capsys.readouterr().err
