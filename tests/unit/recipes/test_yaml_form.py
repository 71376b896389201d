"""The YAML form: the same recipe, the same id, and nothing but data."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memcard.errors import CorruptError, UnsupportedError
from memcard.recipes.nodes import Apply, Node, Params, Source
from memcard.recipes.text import from_json, recipe_id, to_json
from memcard.recipes.yaml_form import from_yaml, read_yaml, to_yaml

GOLDEN = Path(__file__).parents[2] / "golden" / "recipe_v1.json"
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(1 << 63), (1 << 63) - 1)
PLAIN = st.none() | st.booleans() | NUMBERS | TEXTS
VALUES = PLAIN | st.lists(PLAIN, max_size=3) | st.dictionaries(TEXTS, PLAIN, max_size=3)
SOURCES = st.builds(Source, TEXTS.filter(bool), st.none() | st.just("ab" * 32))


def applied(inputs: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    params = st.dictionaries(TEXTS, VALUES, max_size=2).map(Params)
    return st.builds(Apply, TEXTS, st.lists(inputs, max_size=2).map(tuple), params)


NODES = SOURCES | applied(SOURCES | applied(SOURCES))


# a busy machine is no fault of the recipe's
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=60)
@given(node=NODES)
def test_yaml_and_json_are_two_forms_of_one_recipe(node: Node) -> None:
    again = from_yaml(to_yaml(node))

    assert again == node
    assert to_json(again) == to_json(node)
    assert recipe_id(again) == recipe_id(node)


def test_the_golden_recipe_reads_well() -> None:
    text = to_yaml(from_json(GOLDEN.read_text("utf-8")))

    assert text.startswith("memcard_recipe: 1\nnode:\n  op: weighted_average\n  inputs:\n")
    assert "weights: [0.7, 0.3]" in text
    assert "café.ckpt" in text


@pytest.mark.parametrize("form", ["0.00001", "1e-05", "1.0e-5", "1.E-5", "+.00001"])
def test_a_number_may_be_written_as_people_do(form: str) -> None:
    assert read_yaml(f"x: {form}") == {"x": 1e-5}


@pytest.mark.parametrize(
    "word", ["no", "on", "Yes", "0x1f", "1_000", "2026-01-02", "12:30:00", "="]
)
def test_what_yaml_1_1_would_change_stays_a_text(word: str) -> None:
    assert read_yaml(f"x: {word}") == {"x": word}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: &x 1\nb: *x", "anchors"),
        ("a: 1\na: 2", "stands twice"),
        ("a: !!python/object/apply:os.system [true]", "constructor"),
        ("a: [", "flow node"),
        ("--- 1\n--- 2", "single document"),
        ("[" * 5000, "nested|recursion"),
    ],
)
def test_what_is_not_plain_data_is_refused(text: str, reason: str) -> None:
    with pytest.raises(CorruptError, match=reason):
        read_yaml(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("hello", "not a recipe"),
        ("memcard_recipe: 1\nnode: {source: 3}", "are texts"),
        (
            "memcard_recipe: 1\nnode: {op: x, inputs: [], params: {a: !!binary aGk=}}",
            "hold a bytes",
        ),
    ],
)
def test_yaml_that_is_no_recipe_says_where(text: str, reason: str) -> None:
    with pytest.raises(CorruptError, match=re.compile(reason)):
        from_yaml(text)


def test_a_later_version_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="Update memcard"):
        from_yaml("memcard_recipe: 2\nnode: {source: a}")
