"""memcard discover, as people type it."""

import json
from pathlib import Path

import pytest

from memcard.cli.main import main
from memcard.jobs.diff import diff

GOLDEN = Path(__file__).parents[2] / "golden" / "mergekit_weights"
PARENTS = [str(GOLDEN / f"{name}.safetensors") for name in "ABC"]


def test_one_line_says_what_it_is_and_the_recipe_makes_it_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, again = tmp_path / "m.json", tmp_path / "again.safetensors"

    code = main(["discover", str(GOLDEN / "two.safetensors"), *PARENTS, "--recipe", str(recipe)])

    assert code == 0
    assert capsys.readouterr().out == "0.7 A + 0.3 B, exact\n"
    assert main(["bake", str(recipe), "-o", str(again)]) == 0
    assert diff(GOLDEN / "two.safetensors", again).equal


def test_quick_looks_at_samples_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["discover", str(GOLDEN / "three.safetensors"), *PARENTS, "--quick"]) == 0

    assert capsys.readouterr().out == "0.5 A + 0.3 B + 0.2 C (sampled only)\n"


def test_json_carries_the_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["discover", str(GOLDEN / "two.safetensors"), *PARENTS, "--json"]) == 0

    found = json.loads(capsys.readouterr().out)
    assert (found["title"], found["exact"], found["different"]) == ("0.7 A + 0.3 B", True, 0)
    assert "emulated_sum" in found["recipe"]


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_nothing_found_ends_with_1(capsys: pytest.CaptureFixture[str], options: list[str]) -> None:
    code = main(["discover", PARENTS[0], PARENTS[1], *options])

    assert code == 1
    assert capsys.readouterr().out.strip() in (
        "null",
        "None of the candidates, and no weighted sum of them, gives this checkpoint.",
    )


def test_what_no_candidate_has_is_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(GOLDEN / "two.safetensors")
    tensors["extra"] = tensors["model.diffusion_model.input_blocks.1.0.in_layers.2.bias"]
    save_file(tensors, tmp_path / "t.safetensors")

    assert main(["discover", str(tmp_path / "t.safetensors"), *PARENTS]) == 0

    assert "Not in any candidate: 1 tensors (extra)" in capsys.readouterr().out
