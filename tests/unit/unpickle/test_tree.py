from __future__ import annotations

from typing import Any

import pytest

from memcard.core.limits import Limits
from memcard.core.tensors import DTYPES
from memcard.errors import UnsupportedError
from memcard.unpickle.nodes import Global, Opaque, Storage, TensorView
from memcard.unpickle.tree import flatten

T = TensorView(Storage("0", DTYPES["F32"], 4), DTYPES["F32"], 4, 0, (1,), (1,))


def names(root: Any) -> list[str]:
    return list(flatten(root, "x").tensors)


@pytest.mark.parametrize(
    ("root", "expected"),
    [
        (T, ["tensor"]),
        ({"a": T, "b.c": T, "": T}, ["a", "b.c", ""]),
        ([T, [T]], ["[0]", "[1][0]"]),
        ({"model": {"a": T}, "ema": {"a": T}}, ["model.a", "ema.a"]),
        ({"x": {0: T, "0": T, (1, "a"): T}}, ["x[0]", "x.0", "x[(1, 'a')]"]),
        ({"opt": [{"m": T}], "state_dict": {"a": T}}, ["a", "opt[0].m"]),
        ({"state_dict": T}, ["state_dict"]),
        ({"state_dict": {"x": 1}, "b": T}, ["b"]),
        ({"callbacks": {Global("m", "C"): {"s": T}}}, ["callbacks[m.C].s"]),
        ({"hp": Opaque("Namespace", (), {"w": T})}, ["hp.w"]),
        ({"a": {"b": T}, "a.b": T}, ["a.b", "a.b#2"]),
        ({"state_dict": {"opt.m": T}, "opt": {"m": T}}, ["opt.m", "opt.m#2"]),
    ],
)
def test_every_tensor_has_a_name_of_its_own(root: Any, expected: list[str]) -> None:
    assert names(root) == expected


def test_a_name_given_twice_is_noted() -> None:
    assert "'a.b#2'" in flatten({"a": {"b": T}, "a.b": T}, "x").notes[0]


def test_small_values_at_the_top_are_metadata() -> None:
    found = flatten(
        {"epoch": 3, "lr": 0.5, "name": "x", "ok": True, "long": "x" * 5000, "list": [1], "w": T},
        "x",
    )

    assert found.metadata == {"epoch": "3", "lr": "0.5", "name": "x", "ok": "True"}
    assert found.other == ["long", "list"]


def test_our_own_metadata_comes_back_as_it_was() -> None:
    root = {"state_dict": {"w": T}, "memcard_metadata": {"title": "t", "epoch": "own"}, "epoch": 3}

    assert flatten(root, "x").metadata == {"title": "t", "epoch": "own"}


def test_training_state_is_known_only_beside_a_state_dict() -> None:
    beside = flatten({"state_dict": {"w": T}, "optimizer": {"m": T}, "ema": {"w": T}}, "x")
    alone = flatten({"optimizer": {"m": T}}, "x")

    assert (beside.training, alone.training) == (["optimizer.m"], [])


def test_a_cycle_is_listed_once_and_noted() -> None:
    root: dict[str, Any] = {"w": T}
    root["self"] = root

    found = flatten(root, "x")

    assert list(found.tensors) == ["w"]
    assert "contain themselves" in found.notes[0]


def test_nesting_has_a_limit() -> None:
    root: Any = T
    for _ in range(10):
        root = [root]

    assert names(root) == ["[0]" * 10]
    with pytest.raises(UnsupportedError, match="deeper than 8"):
        flatten(root, "x", Limits(nesting=8))
