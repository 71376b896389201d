"""Recipes of any shape: text and value are the same thing, and strange text never surprises."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memcard.errors import FormatError
from memcard.recipes.nodes import Apply, Params, Source
from memcard.recipes.text import from_json, recipe_id, to_json

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
)
VALUES = st.recursive(
    SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(TEXT, v, max_size=3), max_leaves=6
)
SOURCES = st.builds(Source, TEXT, st.none() | st.text("0123456789abcdef", min_size=64, max_size=64))
NODES = st.recursive(
    SOURCES,
    lambda n: st.builds(
        Apply,
        TEXT,
        st.lists(n, max_size=3).map(tuple),
        st.dictionaries(TEXT, VALUES, max_size=3).map(Params),
    ),
    max_leaves=6,
)
JSON = st.recursive(
    SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(TEXT, v, max_size=3)
)


@given(NODES)
def test_reading_inverts_writing(node):
    text = to_json(node)

    assert from_json(text) == node
    assert to_json(from_json(text)) == text
    assert recipe_id(from_json(text)) == recipe_id(node)


@given(NODES, NODES)
def test_different_text_is_a_different_recipe(one, two):
    assert (to_json(one) == to_json(two)) == (repr(one) == repr(two))


@given(JSON)
def test_any_json_is_a_recipe_or_a_format_error(document):
    with pytest.raises(FormatError):
        from_json(json.dumps({"memcard_recipe": 1, "node": document}))


@settings(max_examples=200)
@given(NODES, st.data())
def test_a_damaged_recipe_is_a_recipe_or_a_format_error(node, data):
    text = to_json(node)
    at = data.draw(st.integers(0, len(text) - 1))
    damaged = text[:at] + data.draw(st.sampled_from('{}[]",:0aé\\')) + text[at + 1 :]

    try:
        found = from_json(damaged)
    except FormatError:
        return
    assert from_json(to_json(found)) == found
