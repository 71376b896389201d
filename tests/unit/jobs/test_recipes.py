"""Which kind of recipe a file is, and where its sources lie."""

from __future__ import annotations

from pathlib import Path

import pytest

from fixtures import small
from memcard.errors import CorruptError, MemcardError, NotFoundError, UnsupportedError
from memcard.jobs.merge import merge
from memcard.jobs.recipes import parents_of, read_recipe, write_recipe
from memcard.recipes.nodes import Apply, Params, Source
from memcard.recipes.text import recipe_id, to_json
from memcard.recipes.yaml_form import from_yaml, to_yaml

NODE = Apply("cast", (Source("a.safetensors"),), Params({"dtype": "F16"}))
MERGEKIT = "merge_method: linear\nmodels:\n- model: a\n  parameters: {weight: 1}\n"
MECHA = 'version 0.1.0\nmodel "folder/a.safetensors"\nmerge "n_average" &0\n'
A1111 = '{"type": "webui", "primary_model_hash": "%s", "interp_method": "No interpolation"}' % (
    "a" * 64
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    small.save(tmp_path / "a.safetensors", small.weights(1))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("r.json", to_json(NODE)),
        ("r", to_json(NODE)),
        ("r.yaml", to_yaml(NODE)),
        ("r.yml", "﻿" + to_yaml(NODE)),
        ("r.yml", MERGEKIT),
        ("r.mecha", MECHA),
    ],
)
def test_every_kind_is_known_and_its_sources_lie_beside_it(
    name: str, text: str, folder: Path
) -> None:
    (folder / name).write_text(text, "utf-8")

    assert parents_of(folder / name) == (str(folder / "a.safetensors"),)


def test_a_recipe_inside_a_file_is_read(folder: Path) -> None:
    b = small.save(folder / "b.safetensors", small.weights(2))
    made = merge("weighted_average", [folder / "a.safetensors", b], out=folder / "m.safetensors")

    found = read_recipe(made.out).node

    assert recipe_id(found) == made.recipe_id
    assert parents_of(found) == (str(folder / "a.safetensors"), str(b))


def test_any_recipe_can_be_written_in_our_forms(folder: Path) -> None:
    (folder / "r.mecha").write_text(MECHA, "utf-8")

    yaml, text = write_recipe(folder / "r.mecha"), write_recipe(folder / "r.mecha", "json")

    assert from_yaml(yaml) == Source(str(folder / "a.safetensors"))
    assert read_recipe(text).node == from_yaml(yaml)


@pytest.mark.parametrize(
    ("name", "text", "kind", "reason"),
    [
        ("r.yml", "slices: []", CorruptError, "r.yml: recipe: no .merge_method"),
        (
            "r.yml",
            MERGEKIT.replace("linear", "passthrough"),
            UnsupportedError,
            "r.yml: .*passthrough",
        ),
        ("r.yml", "just a text", CorruptError, "not a recipe"),
        ("r.json", "{", CorruptError, "A recipe is JSON"),
        ("r.json", A1111, NotFoundError, "a{64}.safetensors: no such file"),
        ("r.yml", MERGEKIT.replace("model: a", "model: b"), NotFoundError, "b: no such file"),
    ],
)
def test_what_is_wrong_is_said_with_the_name_of_the_file(
    name: str, text: str, kind: type[MemcardError], reason: str, folder: Path
) -> None:
    (folder / name).write_text(text, "utf-8")

    with pytest.raises(kind, match=reason):
        read_recipe(folder / name)
