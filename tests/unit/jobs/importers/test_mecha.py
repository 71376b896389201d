"""Recipes of sd-mecha, with sd-mecha itself as the judge."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sd_mecha
import torch

from fixtures import small
from memcard.errors import CorruptError, MemcardError, UnsupportedError
from memcard.jobs.bake import bake
from memcard.jobs.importers.mecha import read
from memcard.recipes.nodes import Apply, Source

MODELS = 'model "a.safetensors" model_config=null merge_space="weight"\nmodel "b.safetensors"\n'


def text(lines: str) -> str:
    return f"version 0.1.0\n{MODELS}{lines}"


RECIPES: dict[str, Callable[[Any, Any, Any], Any]] = {
    "weighted_sum": lambda a, b, c: sd_mecha.weighted_sum(a, b, alpha=0.3),
    "add_difference": lambda a, b, c: sd_mecha.add_difference(a, b, c, alpha=0.5),
    "n_average": sd_mecha.n_average,
    "nested": lambda a, b, c: sd_mecha.weighted_sum(
        sd_mecha.add_difference(a, b, c, alpha=0.5), sd_mecha.n_average(a, c), alpha=0.25
    ),
    "geometric": lambda a, b, c: sd_mecha.geometric_sum(a, b, alpha=0.3),
    "clamped": lambda a, b, c: sd_mecha.add_difference(a, b, c, alpha=1.5, clamp_to_ab=True),
}


@pytest.mark.parametrize("case", RECIPES)
def test_the_result_is_sd_mechas(case: str, tmp_path: Path) -> None:
    paths = [
        small.save(tmp_path / f"{i}.safetensors", small.weights(i, "F32", 300)) for i in range(3)
    ]
    recipe = RECIPES[case](*(sd_mecha.model(path) for path in paths))
    (tmp_path / "r.mecha").write_text(sd_mecha.serialize(recipe, finalize=False), "utf-8")

    made = small.load(bake(tmp_path / "r.mecha", tmp_path / "out.safetensors").out)

    expected = sd_mecha.merge(recipe, merge_dtype=torch.float32, output_dtype=torch.float32)
    assert expected is not None
    for name, array in made.items():
        np.testing.assert_allclose(array, expected[name].numpy(), rtol=2e-6, atol=2e-7)


def test_nested_linear_methods_become_one_average() -> None:
    node = read(text('merge "subtract" &0 &1\nmerge "add_difference" &1 &2 0.25\n')).node

    assert isinstance(node, Apply)
    assert node.inputs == (Source("b.safetensors"), Source("a.safetensors"))
    assert node.params["weights"] == (0.75, 0.25)
    assert node.params["normalize"] is False


def test_tenths_stay_tenths() -> None:
    node = read(text('merge "weighted_sum" &0 &1 alpha=0.9\n')).node

    assert isinstance(node, Apply)
    assert node.params["weights"] == (0.1, 0.9)  # 1 - 0.9 is 0.09999999999999998 in binary


def test_a_path_may_have_blanks_and_quotes() -> None:
    found = read('version 0.1.0\n# a comment\n\nmodel "C:\\\\my \\"best\\".safetensors"\n')

    assert found.node == Source('C:/my "best".safetensors')


@pytest.mark.parametrize(
    ("given", "kind", "reason"),
    [
        ("", CorruptError, "first line"),
        ("version 0.2.0\n", CorruptError, "first line"),
        ("version 0.1.0\n", CorruptError, "makes no model"),
        (text("dict key=1\n"), CorruptError, "makes no model"),
        (text('merge "subtract" &0 &1\n'), UnsupportedError, "difference of models"),
        (text('merge "weighted_sum" &0 &7\n'), CorruptError, "line 4: &7 is no earlier line"),
        (text('merge "weighted_sum" &0 &1 x=1\n'), UnsupportedError, "unknown arguments x"),
        (text('merge "weighted_sum" &0 0.5\n'), CorruptError, "b is not a model"),
        (text('merge "weighted_sum" &0 &1 &1\n'), CorruptError, "alpha is not a number"),
        (text('merge "weighted_sum" &0 &1 "half\n'), CorruptError, "cannot read"),
        (text('merge "slerp" &0 &1\n'), UnsupportedError, "another result than slerp"),
        (text('merge "rebasin" &0 &1\n'), UnsupportedError, "'rebasin': it has no counterpart"),
        (text("merge &0 &1\n"), CorruptError, "name of a method"),
        (text('merge "scale" &0 1e999999999\n'), CorruptError, "not a finite number"),
        (text("train &0\n"), CorruptError, "'train' is no command"),
        (text('model "c" merge_space="delta"\n'), UnsupportedError, "delta"),
        (
            text('dict in00=0.1 in01=0.2\nmerge "weighted_sum" &0 &1 &2\n'),
            UnsupportedError,
            "differ",
        ),
    ],
)
def test_what_means_something_else_is_refused(
    given: str, kind: type[MemcardError], reason: str
) -> None:
    with pytest.raises(kind, match=reason):
        read(given)


def test_a_text_that_doubles_with_every_line_is_refused() -> None:
    lines = "".join(f'merge "geometric_sum" &{i} &{i}\n' for i in range(1, 60))

    with pytest.raises(UnsupportedError, match="more than 2000 operations"):
        read(text(lines))
