from __future__ import annotations

from typing import Any

import pytest

from memcard.core.tensors import DTYPES
from memcard.unpickle.nodes import BadCallError, Global, Storage, TensorView
from memcard.unpickle.torch_parts import jagged, nested, quantised, sparse, whole_storage
from memcard.unpickle.tree import flatten

T = TensorView(Storage("0", DTYPES["F32"], 4), DTYPES["F32"], 4, 0, (1,), (1,))
COO = Global("torch", "sparse_coo")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((COO,), "a layout and its parts"),
        ((COO, [T, T]), "a layout and its parts"),
        ((COO, (T, T)), "does not fit 2 parts"),
        ((Global("torch", "strided"), (T, T, (1,))), "layout strided"),
        ((COO, (T, "values", (1,))), "must be tensors"),
        ((COO, (T, T, (1,), True, 5)), "does not fit 5 parts"),
    ],
)
def test_sparse_tensors_with_wrong_parts_are_refused(args: Any, said: str) -> None:
    with pytest.raises(BadCallError, match=said):
        sparse(args)


@pytest.mark.parametrize(
    "call",
    [
        lambda: nested((T, T)),
        lambda: jagged(({}, 1)),
        lambda: jagged(([],)),
        lambda: quantised(T, None, (1,), ()),
    ],
    ids=range(4),
)
def test_other_tensors_with_wrong_parts_are_refused(call: Any) -> None:
    with pytest.raises(BadCallError):
        call()


def test_parts_are_named_below_the_tensor_and_facts_are_metadata() -> None:
    made = sparse((COO, (T, T, (2, 3), True)))

    found = flatten({"a": {"w": made}}, "x")

    assert list(found.tensors) == ["a.w.indices", "a.w.values"]
    assert found.metadata == {
        "a.w.layout": "sparse_coo", "a.w.size": "[2, 3]", "a.w.is_coalesced": "True",
    }  # fmt: skip


def test_foreign_facts_are_shown_by_their_type_only() -> None:
    made = quantised(T, None, (Global("torch", "per_tensor_affine"), {"x": 1}, "y" * 1000), ())

    assert made.facts["scale"] == "dict"
    assert len(made.facts["zero_point"]) == 200


def test_an_untyped_storage_is_bytes() -> None:
    view = whole_storage(Storage("0", None, 10, 2))

    assert (view.dtype.name, view.shape, view.offset) == ("U8", (10,), 2)
