"""Tensors that are kept as several plain ones: sparse, quantised, nested.

Nothing is computed: ``w`` becomes ``w.indices`` and ``w.values``, or ``w.int_repr`` beside a scale. With the
facts (sizes, scale, zero point), which go into the metadata, the whole can be made again, bit for bit.

Source: torch 2.13 ``torch/_utils.py``.
"""

from __future__ import annotations

from collections.abc import Mapping

from memcard.unpickle.nodes import (
    BadCallError,
    Global,
    Opaque,
    Parts,
    Storage,
    TensorView,
    Value,
    shown,
)
from memcard.unpickle.torch_dtypes import item_bytes

_COO = ("indices", "values")
_COMPRESSED: Mapping[str, tuple[str, str, str]] = {
    "sparse_csr": ("crow_indices", "col_indices", "values"),
    "sparse_bsr": ("crow_indices", "col_indices", "values"),
    "sparse_csc": ("ccol_indices", "row_indices", "values"),
    "sparse_bsc": ("ccol_indices", "row_indices", "values"),
}
_NESTED = ("buffer", "sizes", "strides", "offsets")
_PACKED = ("QUInt4x2Storage", "QUInt2x4Storage")  # 2 or 4 values in a byte: no shape in bytes fits
_FACT_LENGTH = 200


def whole_storage(storage: Storage) -> TensorView:
    """Return all of a storage as a tensor of one axis; untyped ones as bytes."""
    from memcard.core.tensors import DTYPES

    dtype = storage.dtype or DTYPES["U8"]
    item = item_bytes(dtype)
    return TensorView(storage, dtype, item, storage.start, (storage.nbytes // item,), (1,))


def sparse(args: tuple[Value, ...]) -> Parts:
    """``_rebuild_sparse_tensor(layout, (indices, …, values, size[, is_coalesced]))``."""
    if len(args) != 2 or not isinstance(args[1], tuple):
        raise BadCallError("needs a layout and its parts")
    layout, parts = _layout(args[0]), args[1]
    names = _COO if layout == "sparse_coo" else _COMPRESSED.get(layout)
    if names is None or not len(names) < len(parts) <= len(names) + 2:
        raise BadCallError(f"layout {shown(layout, 40)} does not fit {len(parts)} parts")
    size = parts[len(names)]
    facts = {"layout": layout, "size": _fact(size)}
    if len(parts) > len(names) + 1:
        facts["is_coalesced"] = _fact(parts[-1])
    return Parts(f"sparse tensor ({layout})", _tensors(names, parts), facts)


def nested(args: tuple[Value, ...]) -> Parts:
    """``_rebuild_nested_tensor(buffer, sizes, strides, offsets)``."""
    if len(args) < len(_NESTED):
        raise BadCallError(f"has {len(args)} arguments, too few")
    return Parts("nested tensor", _tensors(_NESTED, args), {"layout": "nested"})


def jagged(args: tuple[Value, ...]) -> Parts:
    """``_rebuild_njt(keywords)``: a nested tensor of one ragged axis, ``values`` and ``offsets``."""
    if len(args) != 1 or not isinstance(args[0], dict):
        raise BadCallError("needs a dict of keywords")
    found = {k: v for k, v in args[0].items() if isinstance(k, str) and len(k) < _FACT_LENGTH}
    tensors = {name: value for name, value in found.items() if isinstance(value, TensorView)}
    plain = {k: _fact(v) for k, v in found.items() if isinstance(v, int | float | str)}
    return Parts("nested tensor", tensors, {"layout": "jagged", **plain})


def quantised(view: Value, storage: Value, params: Value, size: Value) -> Parts:
    """``_rebuild_qtensor``: the integers, and the scale and zero point beside them.

    Args:
        view: the integers as a tensor.
        storage: of the integers.
        params: ``(scheme, scale, zero_point)`` or ``(scheme, scales, zero_points, axis)``.
        size: shape of the tensor.
    """
    if not isinstance(params, tuple) or len(params) not in (3, 4):
        raise BadCallError("quantized without a scale and a zero point")
    scheme = params[0].name if isinstance(params[0], Global) else type(params[0]).__name__
    facts = {"scheme": scheme}
    tensors: dict[str, Value] = {"int_repr": view}
    if isinstance(storage, Storage) and view is None:
        tensors = {"packed": whole_storage(storage)}
        facts["size"] = _fact(size)
    for name, value in zip(("scale", "zero_point", "axis"), params[1:], strict=False):
        if isinstance(value, TensorView):
            tensors[f"{name}s"] = value
        else:
            facts[name] = _fact(value)
    return Parts("quantized tensor", tensors, facts)


def packed(kind: Global) -> bool:
    """Whether the storage type holds several values in a byte."""
    return kind.name in _PACKED


def _tensors(names: tuple[str, ...], values: tuple[Value, ...]) -> dict[str, Value]:
    found = dict(zip(names, values, strict=False))
    if not all(isinstance(value, TensorView | Opaque) for value in found.values()):
        raise BadCallError(f"{', '.join(names)} must be tensors")
    return found


def _layout(value: Value) -> str:
    if isinstance(value, Opaque) and len(value.args) == 1:
        value = value.args[0]  # _get_layout("torch.sparse_csr")
    text = value.full if isinstance(value, Global) else value
    return text.removeprefix("torch.") if isinstance(text, str) else type(value).__name__


def _fact(value: Value) -> str:
    flat = value if isinstance(value, list | tuple) else (value,)
    if not all(isinstance(part, int | float | str | None) for part in flat):
        return type(value).__name__
    return repr(list(value) if isinstance(value, tuple) else value)[:_FACT_LENGTH]
