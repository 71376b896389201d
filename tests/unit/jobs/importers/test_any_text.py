"""Whatever stands in a recipe: it is read, or refused with a reason."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memcard.errors import MemcardError
from memcard.jobs.importers import a1111, mecha, mergekit
from memcard.recipes.nodes import Source
from memcard.recipes.yaml_form import from_yaml, to_yaml

JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
METHODS = st.sampled_from(["linear", "slerp", "ties", "dare_ties", "nuslerp", "sce", "karcher"])
SETTINGS = st.dictionaries(
    st.sampled_from(["weight", "density", "t", "lambda", "normalize", "rescale", "select_topk"]),
    st.just(0.5)
    | JSON
    | st.lists(
        st.fixed_dictionaries({"value": JSON}, optional={"filter": JSON}), min_size=1, max_size=2
    ),
    max_size=3,
)
MODELS = st.lists(
    st.fixed_dictionaries(
        {"model": st.sampled_from("abc")}, optional={"parameters": SETTINGS | JSON}
    )
    | JSON,
    max_size=3,
)
CONFIGS = st.fixed_dictionaries(
    {"merge_method": METHODS | JSON, "models": MODELS | JSON},
    optional={"base_model": st.just("a") | JSON, "parameters": SETTINGS | JSON, "dtype": JSON},
)
WORDS = st.sampled_from(
    [
        "&0",
        "&1",
        "&2",
        "&9",
        "0.5",
        '"x"',
        "alpha=0.5",
        "alpha=&2",
        "null",
        "a=&0",
        '"',
        "=",
        "1e999",
        "&",
    ]
)
METHODS_OF_MECHA = [
    "weighted_sum",
    "clamp",
    "geometric_sum",
    "fallback",
    "n_average",
    "scale",
    "convert_singleton",
]
COMMANDS = st.sampled_from(
    [
        *(f'merge "{method}"' for method in METHODS_OF_MECHA),
        "merge",
        "model",
        "dict",
        "literal",
        "x",
    ]
)
LINES = st.lists(st.tuples(COMMANDS, st.lists(WORDS, max_size=4)), max_size=5)
KEYS = [
    "type",
    "interp_method",
    "mode",
    "multiplier",
    "base_alpha",
    "mbw",
    "weights_alpha",
    "calcmode",
]
VALUES = st.sampled_from(
    ["webui", "sd-webui-supermerger", "Weight sum", "sum Twice", 0.5, True, "1,2", "a" * 64]
)
HASHES = st.fixed_dictionaries({f"model_{x}": st.just("a" * 64) | JSON for x in "abc"})


# a busy machine is no fault of the reader's
UNHURRIED = settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=60)


def names(source: Source) -> list[str]:
    return ["model.layers.0.weight", "model.layers.1.weight", "model.norm.weight"]


@UNHURRIED
@given(document=CONFIGS | JSON)
def test_any_configuration_of_mergekit(document: Any) -> None:
    with suppress(MemcardError):
        found = mergekit.read(document, names).node
        assert from_yaml(to_yaml(found)) == found


@UNHURRIED
@given(lines=LINES)
def test_any_recipe_of_sd_mecha(lines: list[tuple[str, list[str]]]) -> None:
    text = "\n".join(
        ["version 0.1.0", 'model "a"', 'model "b"', *(" ".join([c, *words]) for c, words in lines)]
    )
    with suppress(MemcardError):
        mecha.read(text)


@UNHURRIED
@given(recipe=st.dictionaries(st.sampled_from(KEYS), VALUES | JSON), hashes=HASHES, models=JSON)
def test_any_metadata_of_a1111(recipe: Any, hashes: Any, models: Any) -> None:
    metadata = {
        "sd_merge_recipe": json.dumps(hashes | recipe),
        "sd_merge_models": json.dumps(models),
    }
    with suppress(MemcardError):
        a1111.read(metadata, names)
