"""Recipes are values: frozen, equal by content, hashable."""

import math

import pytest

from memcard.errors import UsageError
from memcard.recipes.nodes import Apply, Params, Source, sources

A, B = Source("a.safetensors"), Source("b.safetensors")


def test_equal_recipes_are_equal_and_hash_alike():
    one = Apply("mix", (A, B), Params({"w": [0.7, 0.3], "deep": {"x": None}}))
    two = Apply("mix", (A, B), Params({"deep": {"x": None}, "w": (0.7, 0.3)}))

    assert one == two
    assert hash(one) == hash(two)


def test_params_cannot_be_changed_from_outside():
    shares = [0.7, 0.3]
    params = Params({"w": shares})

    shares.append(1.0)

    assert params["w"] == (0.7, 0.3)
    with pytest.raises(TypeError):
        params["w"] = ()


@pytest.mark.parametrize("value", [math.nan, math.inf, [1, -math.inf], b"x", {1, 2}, object()])
def test_params_refuse_what_is_not_json(value):
    with pytest.raises(UsageError, match="w"):
        Params({"w": value})


@pytest.mark.parametrize(("ref", "digest"), [("", None), ("a", "abc"), ("a", "A" * 64)])
def test_a_source_needs_a_name_and_a_real_digest(ref, digest):
    with pytest.raises(UsageError):
        Source(ref, digest)


def test_sources_come_once_and_from_left_to_right():
    node = Apply("mix", (Apply("overlay", (B, A)), B, Source("c")))

    assert sources(node) == (B, A, Source("c"))
