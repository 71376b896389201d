"""The text form: golden files are read for ever, bad text is refused with the place."""

import json
from pathlib import Path

import pytest

from memcard.errors import CorruptError, UnsupportedError
from memcard.recipes.nodes import Apply, Params, Source
from memcard.recipes.text import from_json, recipe_id, to_json

GOLDEN = Path(__file__).parents[2] / "golden" / "recipe_v1.json"
SPEC = Path(__file__).parents[3] / "docs" / "spec" / "recipe.md"
NODE = Apply(
    "weighted_average",
    (
        Source("photo.safetensors", "aa" * 32),
        Apply("lora_bake", (Source("café.ckpt", "bb" * 32), Source("ink.safetensors")),
              Params({"strengths": [0.8], "alphas": [None], "skip_unmatched": False})),
    ),
    Params({"weights": [0.7, 0.3], "normalize": True, "dtype": "widest"}),
)  # fmt: skip
NODE_ID = "a07e5ba835fa5205963c2f127a4ef0e736b1b1933dd588ae8ab55c64e5486b72"


def test_the_golden_recipe_of_version_1_is_read_and_written_back_byte_for_byte():
    text = GOLDEN.read_text("utf-8")

    assert from_json(text) == NODE
    assert to_json(NODE) == text


def test_the_golden_recipe_keeps_its_id():
    assert recipe_id(NODE) == NODE_ID
    assert NODE_ID in SPEC.read_text("utf-8")


def test_the_id_goes_by_content_where_content_is_known():
    here = Apply("identity", (Source("/a/x.safetensors", "cc" * 32),))
    there = Apply("identity", (Source("/b/y.safetensors", "cc" * 32),))
    unknown = Apply("identity", (Source("/a/x.safetensors"),))

    assert recipe_id(here) == recipe_id(there)
    assert recipe_id(here) != recipe_id(unknown)
    assert to_json(here) != to_json(there)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "JSON"),
        ("[1]", "not a recipe"),
        ("{}", "memcard_recipe"),
        ('{"memcard_recipe":true,"node":{"source":"a"}}', "version"),
        ('{"memcard_recipe":0,"node":{"source":"a"}}', "version"),
        ('{"memcard_recipe":1}', "node"),
        ('{"memcard_recipe":1,"node":{"source":"a"},"x":1}', "'x'"),
        ('{"memcard_recipe":1,"node":{"source":"a","op":"b"}}', "either"),
        ('{"memcard_recipe":1,"node":{"source":7}}', "texts"),
        ('{"memcard_recipe":1,"node":{"source":"a","sha256":"xyz"}}', "64 hex"),
        ('{"memcard_recipe":1,"node":{"source":"a","sha":"xyz"}}', "'sha'"),
        ('{"memcard_recipe":1,"node":{"op":"a","inputs":{}}}', "list"),
        ('{"memcard_recipe":1,"node":{"op":"a","inputs":[{"source":"b"},3]}}', r"inputs\[1\]"),
        ('{"memcard_recipe":1,"node":{"op":"a","inputs":[],"params":{"w":NaN}}}', "NaN"),
        ('{"memcard_recipe":1,"node":{"op":"a","inputs":[],"params":{"w":1e999}}}', "inf"),
        ('{"memcard_recipe":1,"node":{"source":"a","source":"b"}}', "twice"),
        ("[" * 100_000, "recipe"),
    ],
)
def test_bad_text_is_refused_and_the_place_named(text, says):
    with pytest.raises(CorruptError, match=says):
        from_json(text)


def test_a_later_version_is_refused_as_unsupported():
    with pytest.raises(UnsupportedError, match="Update memcard"):
        from_json('{"memcard_recipe":2,"node":{"anything":1}}')


def test_deep_nesting_is_refused():
    node = {"source": "a"}
    for _ in range(80):
        node = {"op": "identity", "inputs": [node], "params": {}}

    with pytest.raises(CorruptError, match="nested"):
        from_json(json.dumps({"memcard_recipe": 1, "node": node}))
