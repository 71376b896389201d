"""The examples of docs/spec/recipe.md are what this code reads and writes."""

import re
from pathlib import Path

import pytest

from memcard.errors import CorruptError
from memcard.recipes.nodes import sources
from memcard.recipes.text import from_json, recipe_id, to_json
from memcard.recipes.yaml_form import from_yaml, read_yaml, to_yaml

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "spec" / "recipe.md").read_text("utf-8")
GOLDEN = (ROOT / "tests" / "golden" / "recipe_v1.json").read_text("utf-8")


def example(language):
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return found


def test_the_json_of_the_page_is_the_golden_recipe():
    assert to_json(from_json(example("json"))) == GOLDEN.strip()


def test_the_yaml_of_the_page_is_the_same_recipe_as_its_json():
    assert from_yaml(example("yaml")) == from_json(example("json"))


def test_the_yaml_of_the_page_is_what_is_written_to_the_last_byte():
    assert to_yaml(from_json(GOLDEN)) == example("yaml")


def test_the_id_on_the_page_is_that_of_both_forms():
    (stated,) = re.findall(r"Its id is `([0-9a-f]{64})`", PAGE)

    assert recipe_id(from_yaml(example("yaml"))) == recipe_id(from_json(example("json"))) == stated


def test_the_sources_of_the_example_are_three():
    assert [source.ref for source in sources(from_yaml(example("yaml")))] == [
        "photo.safetensors",
        "café.ckpt",
        "ink.safetensors",
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True), ("TRUE", True), ("False", False), ("null", None), ("~", None), ("", None),
        ("7", 7), ("-7", -7), ("0.7", 0.7), (".5", 0.5), ("1e-05", 1e-05),
        ("no", "no"), ("on", "on"), ("2026-11-22", "2026-11-22"), ("'7'", "7"), ('"true"', "true"),
    ],
)  # fmt: skip
def test_scalars_are_read_by_the_rules_of_the_page(text, value):
    found = read_yaml(f"key: {text}")["key"]

    assert (found, type(found)) == (value, type(value))


def test_a_block_of_text_is_a_text():
    assert read_yaml("key: |\n  7\n") == {"key": "7\n"}


@pytest.mark.parametrize(
    "text",
    ["a: 1\na: 2", "a: &x 1\nb: *x", "a: &x 1", "a: !!python/name:os.system x", "a: 1\n---\nb: 2"],
    ids=["key twice", "alias", "anchor", "tag", "two documents"],
)
def test_what_the_page_refuses_is_refused(text):
    with pytest.raises(CorruptError):
        read_yaml(text)


def test_comments_change_nothing():
    commented = "# mine\n" + example("yaml").replace("  op:", "  # how\n  op:", 1)

    assert from_yaml(commented) == from_yaml(example("yaml"))
