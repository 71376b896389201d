"""memcard merge as people type it: help by method, block weights, parts."""

import json

import numpy as np
import pytest

from fixtures import small
from memcard.cli.main import main
from memcard.cli.merge import parameters


@pytest.mark.parametrize("words", [["ties", "--help"], ["--help", "ties"], ["ties", "a", "-h"]])
def test_a_method_explains_its_parameters(words, capsys):
    assert main(["merge", *words]) == 0

    out = capsys.readouterr().out
    assert "arXiv:2306.01708" in out
    assert "density" in out
    assert "--base BASE" in out


def test_the_help_lists_all_methods(capsys):
    assert main(["merge", "--help"]) == 0

    out = capsys.readouterr().out
    assert "weighted_average" in out
    assert "slerp" in out
    assert "--keep-vae-of" in out


def test_help_for_a_method_that_is_not_there_names_the_nearest(capsys):
    assert main(["merge", "tise", "--help"]) == 6

    assert "Did you mean 'ties'" in capsys.readouterr().err


def test_block_weights_and_parts_reach_the_recipe(tmp_path, capsys):
    out = tmp_path / "out.safetensors"
    words = ["starter", "starter/stencil", "--blocks", "GRAD_A", "--keep-vae-of", "starter"]

    assert main(["merge", "weighted_average", *words, "--out", str(out), "--json"]) == 0

    node = json.loads(capsys.readouterr().out)["recipe"]["node"]
    assert node["op"] == "by_block"
    assert {"keep": 0, "prefixes": ["first_stage_model."]} in node["params"]["rules"]


def test_a_dry_run_says_what_it_would_take(tmp_path, capsys):
    words = ["starter", "starter/stencil", "--out", str(tmp_path / "o.safetensors"), "--dry-run"]

    assert main(["merge", "weighted_average", *words]) == 0

    said = capsys.readouterr()
    assert "memory" in said.out
    assert "time" in said.out
    assert "nothing was written" in said.err


def test_nan_is_refused_with_the_exit_code_of_a_mismatch(tmp_path, capsys):
    paths = [
        str(small.save(tmp_path / f"{i}.safetensors", {"w": np.full(4, value, "f2")}))
        for i, value in enumerate([1, np.nan])
    ]
    words = ["merge", "weighted_average", *paths, "--out", str(tmp_path / "o.safetensors")]

    assert main(words) == 7
    assert "--nonfinite allow" in capsys.readouterr().err
    assert main([*words, "--nonfinite", "allow"]) == 0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.2,0.5", [0.2, 0.5]),
        ("1e-3, -2", [0.001, -2]),
        ("[0.2, 0.5]", [0.2, 0.5]),
        ("0.3", 0.3),
        ("true", True),
        ("a,b", "a,b"),
        ("1,,2", "1,,2"),
        ("e,e", "e,e"),
    ],
)
def test_numbers_with_commas_are_a_list(text, value):
    assert parameters((f"key={text}",)) == {"key": value}


def test_each_fine_tune_has_its_own_density(tmp_path, capsys):
    rng = np.random.default_rng(0)
    paths = [
        str(small.save(tmp_path / f"{i}.safetensors", {"w": rng.standard_normal(40).astype("f2")}))
        for i in range(3)
    ]
    words = [*paths[1:], "--base", paths[0], "--out", str(tmp_path / "o.safetensors"), "--json"]

    assert main(["merge", "ties", *words, "--set", "density=0.2,0.5"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["recipe"]["node"]["params"]["density"] == [0.2, 0.5]

    assert main(["merge", "ties", *words, "--force", "--set", "density=0.2,0.5,0.1"]) == 2
    assert "density: 3 given for 2 fine-tunes" in capsys.readouterr().err


def test_a_dry_run_does_not_guess_the_time_of_what_it_cannot_try(tmp_path, capsys):
    words = ["starter", "starter/stencil", "--out", str(tmp_path / "o.safetensors"), "--dry-run"]

    assert main(["merge", "cosine_add", *words]) == 0

    assert "time" not in capsys.readouterr().out


def test_set_cannot_go_behind_an_option(capsys):
    assert main(["merge", "weighted_average", "a", "b", "--out", "c", "--set", "blocks=x"]) == 2

    assert "there is an option --blocks" in capsys.readouterr().err
