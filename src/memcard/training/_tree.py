"""Nested Python values as JSON and named tensors, and back; no pickle.

JSON has no tuples, bytes, NaN or tensors: such a value becomes an object of one key that begins with ``$``.
What is not in the list of ``docs/spec/training.md`` is refused with its path, never guessed at.
"""

from __future__ import annotations

import base64
import json
import struct
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor

from memcard.core.tensors import DTYPES, Spec
from memcard.errors import CorruptError, UnsupportedError
from memcard.maths.torch_bridge import DTYPES as TORCH_DTYPES

JSON: TypeAlias = Any  # None, bool, int, float, str, list, dict

_NAMES: Final = {dtype: name for name, dtype in TORCH_DTYPES.items()}
# Complex types that safetensors has no name for are stored as pairs of numbers.
_PAIRS: Final = {torch.complex128: torch.float64, torch.complex32: torch.float16}
# torch reads complex128 with instructions that end the process where it begins elsewhere; in a file
# such a pair of doubles begins at any multiple of 8.
_COMPLEX_BEGINS: Final = 16
_SHORT: Final = 1024  # bytes; longer ones are kept as a tensor
_WRAPPERS: Final = (
    "__tensor_flatten__",
    "device_mesh",
)  # DTensor and other tensors made of tensors
_MOST_FAULTS: Final = 20


@dataclass(frozen=True, slots=True)
class Packed:
    """A value taken apart.

    Attributes:
        tree: the JSON; ``{"$tensor": name}`` where a tensor was.
        tensors: by name, in the order they were met; memory that several share is here once.
    """

    tree: JSON
    tensors: Mapping[str, Tensor]


def pack(value: object, root: str = "") -> Packed:
    """Take a value apart.

    Args:
        value: of the types in ``docs/spec/training.md``.
        root: what the names of its tensors begin with.

    Raises:
        UnsupportedError: something in it is of another type; all such are named.
    """
    packing = _Packing()
    return packing.finished(packing.node(value, root))


def pack_all(values: Sequence[tuple[str, object]]) -> Packed:
    """Take several values apart, each under its own root; ``tree`` is a list of theirs. See ``pack``."""
    packing = _Packing()
    return packing.finished([packing.node(value, root) for root, value in values])


class _Packing:
    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.faults: list[str] = []
        self._seen: dict[tuple[Any, ...], str] = {}
        self._inside: set[int] = set()

    def finished(self, tree: JSON) -> Packed:
        """Return what was packed; raises UnsupportedError for all faults."""
        if not self.faults:
            return Packed(tree, self.tensors)
        more = len(self.faults) - _MOST_FAULTS
        raise UnsupportedError(
            f"this cannot be saved: {'; '.join(self.faults[:_MOST_FAULTS])}"
            f"{f' and {more} more' if more > 0 else ''}. Saves hold tensors and plain values only, "
            "as they must never run code. Leave it out of the object's state_dict(), or make it numbers, "
            "text, lists and dicts there.",
            faults=self.faults,
        )

    def node(self, value: Any, path: str) -> JSON:
        """Return the JSON of one value."""
        if value is None or type(value) in (bool, int, str):
            return value
        if type(value) is float:
            return value if isfinite(value) else {"$float": struct.pack(">d", value).hex()}
        if isinstance(value, Tensor):
            return self._tensor(value, path)
        if isinstance(value, (dict, list, tuple, set, frozenset)):
            return self._container(value, path)
        return self._rare(value, path)

    def _container(self, value: Any, path: str) -> JSON:
        if id(value) in self._inside:
            return self._fault(path, "contains itself")
        self._inside.add(id(value))
        try:
            kind: Any = type(value)
            if kind in (dict, OrderedDict, Counter):
                return self._mapping(value, path)
            items = sorted(value, key=repr) if kind in (set, frozenset) else value
            listed = [self.node(item, _below(path, i)) for i, item in enumerate(items)]
            if kind is list:
                return listed
            tag = {tuple: "$tuple", torch.Size: "$size", set: "$set", frozenset: "$frozenset"}
            return {tag[kind]: listed} if kind in tag else self._unknown(value, path)
        finally:
            self._inside.discard(id(value))

    def _mapping(self, value: Mapping[Any, Any], path: str) -> JSON:
        items = [(key, self.node(item, _below(path, key))) for key, item in value.items()]
        if type(value) is dict and all(type(k) is str and not k.startswith("$") for k in value):
            return dict(items)
        tag = {dict: "$dict", OrderedDict: "$ordered", Counter: "$counter"}[type(value)]
        return {tag: [[self.node(key, _below(path, "key")), item] for key, item in items]}

    def _rare(self, value: Any, path: str) -> JSON:
        if type(value) is bytes:
            if len(value) <= _SHORT:
                return {"$bytes": base64.b64encode(value).decode()}
            flat = torch.frombuffer(bytearray(value), dtype=torch.uint8)
            return {"$bytes": self._tensor(flat, path)}
        if type(value) is complex:
            return {"$complex": [self.node(value.real, path), self.node(value.imag, path)]}
        if isinstance(value, torch.dtype):
            return {"$dtype": str(value).removeprefix("torch.")}
        if isinstance(value, torch.device):
            return {"$device": str(value)}
        if type(value).__module__ == "numpy":
            return self._numpy(value, path)
        return self._unknown(value, path)

    def _numpy(self, value: Any, path: str) -> JSON:
        import numpy as np

        if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "biufc":
            little = np.ascontiguousarray(value).astype(value.dtype.newbyteorder("<"), copy=True)
            raw = little.tobytes()
            found: dict[str, Any] = {"dtype": little.dtype.str, "shape": list(value.shape)}
            long = (
                torch.frombuffer(bytearray(raw), dtype=torch.uint8) if len(raw) > _SHORT else None
            )
            found["values"] = self.node(raw if long is None else long, path)
            found["scalar"] = isinstance(value, np.generic)
            return {"$numpy": found}
        return self._unknown(value, path)

    def _tensor(self, value: Tensor, path: str) -> JSON:
        why = _why_not(value)
        if why:
            return self._fault(path, why)
        plain = value.detach()
        as_pairs = {"as": _NAMES[plain.dtype]} if plain.dtype in _PAIRS else {}
        if as_pairs:
            plain = torch.view_as_real(plain.resolve_conj())
        key = (
            plain.data_ptr(),
            plain.device,
            plain.dtype,
            plain.shape,
            plain.stride(),
            value.is_conj(),
            value.is_neg(),
        )
        name = self._seen.get(key) if plain.numel() else None
        if name is None:
            name = self._free(path)
            self.tensors[name] = plain
            if plain.data_ptr():
                self._seen[key] = name
        return {"$tensor": name, **as_pairs}

    def _free(self, path: str) -> str:
        """Return the path, or a variant nobody has: dots in keys make two paths look the same."""
        name, number = path or "value", 1
        while name in self.tensors or name == "__metadata__":
            number += 1
            name = f"{path}~{number}"
        return name

    def _unknown(self, value: object, path: str) -> JSON:
        kind = type(value)
        return self._fault(path, f"is a {kind.__module__}.{kind.__qualname__}")

    def _fault(self, path: str, what: str) -> JSON:
        self.faults.append(f"{path or 'the value'} {what}")
        return None


def _why_not(value: Tensor) -> str:
    """Return why a tensor cannot be saved; empty if it can."""
    if any(hasattr(value, mark) for mark in _WRAPPERS):
        return (
            f"is a {type(value).__name__}, spread over processes or made of other tensors "
            "(for FSDP2 use memcard's storage for torch.distributed.checkpoint)"
        )
    if value.layout != torch.strided:
        return f"is a tensor of layout {value.layout}"
    if value.device.type == "meta":
        return "is a tensor without values (device meta)"
    if value.is_quantized or value.dtype not in _NAMES or _NAMES[value.dtype] == "F4":
        return f"is a tensor of {value.dtype}"
    return ""


def spec_of(tensor: Tensor) -> Spec:
    """Return dtype and shape as files know them.

    Args:
        tensor: one of ``Packed.tensors``.
    """
    return Spec(DTYPES[_NAMES[tensor.dtype]], tuple(tensor.shape))


def names_in(tree: JSON) -> Iterable[str]:
    """Yield the names of all tensors a tree speaks of, as often as it does."""
    if isinstance(tree, list):
        for item in tree:
            yield from names_in(item)
    elif isinstance(tree, dict):
        if type(tree.get("$tensor")) is str:
            yield tree["$tensor"]
        else:
            for item in tree.values():
                yield from names_in(item)


def unpack(tree: JSON, tensor: Callable[[str], Tensor]) -> Any:
    """Put a value together again.

    Args:
        tree: from ``pack``.
        tensor: returns a tensor by its name; asked for each place in the tree.

    Raises:
        CorruptError: the tree does not follow the specification.
    """
    if isinstance(tree, list):
        return [unpack(item, tensor) for item in tree]
    if not isinstance(tree, dict):
        return tree
    tag = next(iter(tree), "")
    if not tag.startswith("$"):
        return {key: unpack(item, tensor) for key, item in tree.items()}
    try:
        return _TAGS[tag](tree[tag], tree, tensor)
    except (KeyError, TypeError, ValueError, AttributeError, struct.error) as error:
        raise CorruptError(
            f"the save speaks of {str(tree)[:80]!r}, which this version of memcard does not know "
            f"({error}). Use the version that wrote it, or a newer one."
        ) from error


Tensors: TypeAlias = Callable[[str], Tensor]


def _read_tensor(name: str, tree: Mapping[str, str], tensor: Tensors) -> Tensor:
    found = tensor(name)
    if "as" not in tree:
        return found
    if found.data_ptr() % _COMPLEX_BEGINS:
        found = found.clone()
    return torch.view_as_complex(found)


def _read_bytes(value: Any, _: object, tensor: Tensors) -> bytes:
    if isinstance(value, str):
        return base64.b64decode(value, validate=True)
    return bytes(unpack(value, tensor).cpu().numpy().tobytes())


def _read_numpy(value: Mapping[str, Any], _: object, tensor: Tensors) -> Any:
    import numpy as np

    raw = unpack(value["values"], tensor)
    raw = raw if isinstance(raw, bytes) else raw.cpu().numpy().tobytes()
    array = np.frombuffer(raw, np.dtype(value["dtype"])).reshape(value["shape"]).copy()
    return array[()] if value["scalar"] else array


def _listed(make: Callable[[Sequence[Any]], Any]) -> Callable[[Any, object, Tensors], Any]:
    return lambda value, _, tensor: make(unpack(value, tensor))


def _paired(make: Callable[[Mapping[Any, Any]], Any]) -> Callable[[Any, object, Tensors], Any]:
    return lambda value, _, tensor: make(
        {_hashable(unpack(k, tensor)): unpack(v, tensor) for k, v in value}
    )


def _hashable(key: Any) -> Any:
    hash(key)  # a TypeError is caught above
    return key


_TAGS: Final[Mapping[str, Callable[[Any, Any, Tensors], Any]]] = {
    "$tensor": _read_tensor,
    "$float": lambda value, *_: struct.unpack(">d", bytes.fromhex(value))[0],
    "$complex": _listed(lambda pair: complex(*pair)),
    "$tuple": _listed(tuple),
    "$size": _listed(torch.Size),
    "$set": _listed(set),
    "$frozenset": _listed(frozenset),
    "$dict": _paired(dict),
    "$ordered": _paired(OrderedDict),
    "$counter": _paired(Counter),
    "$bytes": _read_bytes,
    "$dtype": lambda value, *_: _attribute(value, torch.dtype),
    "$device": lambda value, *_: torch.device(value),
    "$numpy": _read_numpy,
}


def _attribute(name: str, kind: type) -> Any:
    found = getattr(torch, name)
    if not isinstance(found, kind):
        raise TypeError(f"torch.{name} is no {kind.__name__}")
    return found


def to_bytes(value: object, root: str) -> bytes:
    """Return a small value as bytes, for another process of the same training.

    Raises:
        UnsupportedError: as ``pack``.
    """
    packed = pack(value, root)
    raw = {name: bytes(_flat(t).numpy()) for name, t in packed.tensors.items()}
    rows = [[n, _NAMES[t.dtype], list(t.shape), len(raw[n])] for n, t in packed.tensors.items()]
    head = json.dumps([packed.tree, rows]).encode()
    return b"".join((len(head).to_bytes(8, "little"), head, *raw.values()))


def from_bytes(raw: bytes) -> Any:
    """Return the value that ``to_bytes`` packed."""
    start = 8 + int.from_bytes(raw[:8], "little")
    tree, rows = json.loads(raw[8:start])
    tensors = {}
    for name, dtype, shape, size in rows:
        flat = (
            torch.frombuffer(bytearray(raw[start : start + size]), dtype=torch.uint8)
            if size
            else _flat(torch.empty(0))
        )
        tensors[name] = flat.view(TORCH_DTYPES[dtype]).view(shape)
        start += size
    return unpack(tree, tensors.__getitem__)


def _flat(tensor: Tensor) -> Tensor:
    return tensor.cpu().contiguous().reshape(-1).view(torch.uint8)


def _below(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)
