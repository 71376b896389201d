"""Configurations of mergekit. ``tests/golden/mergekit`` holds them with what mergekit-pytorch 0.1.5 made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fixtures import small
from memcard.errors import CorruptError, MemcardError, UnsupportedError
from memcard.jobs.bake import bake
from memcard.jobs.importers.mergekit import read
from memcard.recipes.nodes import Apply, Source

GOLDEN = Path(__file__).parents[3] / "golden" / "mergekit"
CASES = sorted(path.stem for path in GOLDEN.glob("*.yml"))
LAYERS = [f"model.layers.{i}.mlp.weight" for i in range(5)]
NAMES = ["model.embed_tokens.weight", *LAYERS, "model.norm.weight"]


def names(source: Source) -> list[str]:
    return NAMES


def config(method: str = "linear", **more: Any) -> dict[str, Any]:
    models = [
        {"model": "a", "parameters": {"weight": 1}},
        {"model": "b", "parameters": {"weight": 1}},
    ]
    return {"merge_method": method, "models": models, **more}


def weights_by_name(node: Any) -> dict[str, tuple[float, ...]]:
    """Return the weights each tensor gets from a ``by_block`` recipe."""
    found = {}
    for name in NAMES:
        changed = next(
            (
                rule["set"]
                for rule in node.params["rules"]
                if name in rule["names"] or name.startswith(rule["prefixes"])
            ),
            {},
        )
        found[name] = {**node.params["settings"], **changed}["weights"]
    return found


@pytest.mark.parametrize("case", CASES)
def test_the_result_is_mergekits(case: str, tmp_path: Path) -> None:
    expected = small.load(GOLDEN / "expected.safetensors")

    made = small.load(bake(GOLDEN / f"{case}.yml", tmp_path / "out.safetensors").out)

    tolerance = 5e-4 if "float16" in case else 1e-6
    assert len(made) == 8
    for name, array in made.items():
        np.testing.assert_allclose(
            array, expected[f"{case}/{name}"], rtol=tolerance, atol=tolerance
        )


def test_there_are_examples_of_every_method() -> None:
    assert len(CASES) >= 25


def test_a_gradient_runs_over_the_blocks() -> None:
    document = config()
    document["models"][0]["parameters"]["weight"] = [0, 1, 0.5]

    found = weights_by_name(read(document, names).node)

    assert [found[name] for name in LAYERS] == [(w, 1.0) for w in (0.0, 0.5, 1.0, 0.75, 0.5)]
    assert found["model.embed_tokens.weight"] == (0.0, 1.0)
    assert found["model.norm.weight"] == (0.5, 1.0)


def test_a_gradient_may_stand_behind_a_filter() -> None:
    document = config()
    gradient = [{"filter": "mlp", "value": [0, 1]}, {"value": 7}]
    document["models"][0]["parameters"]["weight"] = gradient

    found = weights_by_name(read(document, names).node)

    assert [found[name][0] for name in LAYERS] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert found["model.norm.weight"][0] == 7.0


def test_the_base_comes_first_and_is_not_mixed() -> None:
    models = [{"model": "base"}, {"model": "a", "parameters": {"weight": 0.5}}]

    found = read({"merge_method": "ties", "base_model": "base", "models": models}, names)

    assert isinstance(found.node, Apply)
    assert found.node.inputs == (Source("base"), Source("a"))
    assert found.node.params["weights"] == (0.5,)


def test_random_methods_and_tokenizers_are_spoken_of() -> None:
    document = config("dare_ties", base_model="c", tokenizer_source="union")

    notes = read(document, names).notes

    assert any("tokenizer" in note for note in notes)
    assert any("seed" in note for note in notes)


@pytest.mark.parametrize(
    ("document", "kind", "reason"),
    [
        ({"merge_method": "passthrough", "slices": [{}]}, UnsupportedError, "restacked"),
        ({"slices": [{}]}, CorruptError, "merge_method"),
        (config("passthrough"), UnsupportedError, "no counterpart"),
        (config(shape="x"), UnsupportedError, "unknown 'shape'"),
        (config(dtype="int8"), UnsupportedError, "int8"),
        (config(base_model="c"), UnsupportedError, "no use for the base"),
        (config("ties"), CorruptError, 'needs a "base_model"'),
        (config("ties", base_model=["c"]), CorruptError, "not a text"),
        (config(parameters={"densty": 1}), UnsupportedError, "densty"),
        (config(parameters=[1]), CorruptError, "not an object"),
        ({"merge_method": "slerp", "base_model": "a", "models": [{"model": "b"}]}, CorruptError, "no t"),
        (config("ties", base_model="c", parameters={"rescale": True}), UnsupportedError, "rescale"),
        (config(models=[]), CorruptError, "not a list of models"),
        (config(models=[{"model": "a"}, {"model": "b"}]), CorruptError, "no weight is given for a"),
        (config(models=[{"model": {"path": "a"}}]), CorruptError, r"models\[0\]"),
        (config(models=[{"model": "a", "parameters": {"weight": "x"}}]), CorruptError, "'x'"),
        (config(models=[{"model": "a", "parameters": {"weight": [{"filter": "x"}]}}]),
         CorruptError, "filters"),
        (config(models=[{"model": "a", "parameters": {"weight": [{"filter": "x", "value": 1}]}}]),
         CorruptError, "no weight is given for a model.embed"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_by_name(
    document: dict[str, Any], kind: type[MemcardError], reason: str
) -> None:
    with pytest.raises(kind, match=reason):
        read(document, names)


def test_each_model_has_its_own_density_gamma_and_epsilon() -> None:
    def node(method: str, **params: Any) -> Any:
        models = [
            {"model": name, "parameters": {"weight": 1, **{k: v[i] for k, v in params.items()}}}
            for i, name in enumerate("ab")
        ]
        document = {"merge_method": method, "base_model": "c", "models": models}
        return read(document, names).node

    assert node("ties", density=(0.3, 0.6)).params["density"] == (0.3, 0.6)
    assert node("ties", density=(0.3, 0.3)).params["density"] == 0.3
    assert node("breadcrumbs", gamma=(0.1, 0.2)).params["gamma"] == (0.1, 0.2)
    assert node("della", density=(0.5, 0.5), epsilon=(0.1, 0)).params["epsilon"] == (0.1, 0.0)


def test_one_value_for_all_models_where_the_method_takes_one() -> None:
    models = [
        {"model": name, "parameters": {"epsilon": e}} for name, e in (("a", 1e-5), ("b", 0.3))
    ]

    with pytest.raises(UnsupportedError, match=r"ram takes one epsilon for all .*0\.3"):
        read({"merge_method": "ram", "base_model": "c", "models": models}, names)


def test_a_base_without_another_model_is_refused() -> None:
    document = {"merge_method": "ties", "models": [{"model": "a"}], "base_model": "a"}

    with pytest.raises(CorruptError, match="no model beside the base 'a'"):
        read(document, lambda _: ["w"])
