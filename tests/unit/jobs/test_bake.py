"""Baking recipes from text, files and checkpoints."""

import json

import numpy as np
import pytest

import memcard
from fixtures import small
from memcard.errors import CorruptError, IntegrityError, NotFoundError
from memcard.jobs.bake import bake
from memcard.jobs.merge import merge
from memcard.recipes.nodes import Apply, Params, Source
from memcard.recipes.text import to_json


@pytest.fixture
def path(tmp_path):
    return small.save(tmp_path / "a.safetensors", small.weights(1, "F32"))


@pytest.mark.parametrize("form", ["node", "text", "file"])
def test_a_recipe_is_taken_as_value_text_or_file(path, tmp_path, form):
    node = Apply("cast", (Source(str(path)),), Params({"dtype": "F16"}))
    (tmp_path / "recipe.json").write_text(to_json(node), "utf-8")
    recipe = {"node": node, "text": to_json(node), "file": tmp_path / "recipe.json"}[form]

    made = memcard.bake(recipe, tmp_path / "out.safetensors")

    expected = small.weights(1, "F32")["a.weight"].astype("f2")
    assert np.array_equal(small.load(made.out)["a.weight"], expected)


def test_sources_are_looked_for_beside_the_recipe(path, tmp_path):
    text = to_json(Apply("identity", (Source(path.name),)))
    (tmp_path / "recipe.json").write_text(text, "utf-8")

    made = bake(tmp_path / "recipe.json", tmp_path / "out.safetensors")

    assert made.tensors == 4


def test_a_source_that_changed_since_is_refused(tmp_path):
    paths = [small.save(tmp_path / f"{i}.safetensors", small.weights(i)) for i in range(2)]
    made = merge("weighted_average", paths, out=tmp_path / "m.safetensors")
    small.save(paths[1], small.weights(9))

    with pytest.raises(IntegrityError, match=r"1\.safetensors"):
        bake(made.out, tmp_path / "again.safetensors")

    assert not (tmp_path / "again.safetensors").exists()


def test_a_checkpoint_without_recipe_and_text_that_is_none_are_refused(path, tmp_path):
    (tmp_path / "x.json").write_bytes(b'{"a": 1}')
    (tmp_path / "y.json").write_bytes(b'{"\xff": 1}')

    with pytest.raises(NotFoundError, match="carries no recipe"):
        bake(path, tmp_path / "out.safetensors")
    with pytest.raises(NotFoundError, match="no such recipe"):
        bake(tmp_path / "nope.json", tmp_path / "out.safetensors")
    with pytest.raises(CorruptError, match="not a recipe"):
        bake(tmp_path / "x.json", tmp_path / "out.safetensors")
    with pytest.raises(CorruptError, match="UTF-8"):
        bake(tmp_path / "y.json", tmp_path / "out.safetensors")


def test_a_source_alone_is_a_copy_of_its_tensors(path, tmp_path):
    made = bake(Source(str(path)), tmp_path / "copy.safetensors")

    assert small.load(made.out)["b.bias"].tobytes() == small.weights(1, "F32")["b.bias"].tobytes()
    assert made.computed == 0
    assert json.loads(made.recipe)["node"] == {"source": "a.safetensors"}
