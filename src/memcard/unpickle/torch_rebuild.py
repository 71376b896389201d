"""What torch's rebuild functions would build: strided views on storages, checked, never made.

Source: torch 2.13 ``torch/_utils.py`` and ``torch/serialization.py``.
"""

from __future__ import annotations

from math import prod

from memcard.core.limits import DEFAULT, Limits
from memcard.core.tensors import DType
from memcard.unpickle import names
from memcard.unpickle.nodes import (
    BadCallError,
    Global,
    Mapped,
    Opaque,
    Storage,
    TensorView,
    Value,
    shown,
)
from memcard.unpickle.torch_dtypes import (
    OPAQUE_DTYPES,
    QUANTIZED_STORAGES,
    STORAGE_CLASSES,
    TORCH_DTYPES,
    item_bytes,
)

_MAX_DIMS = 64
_MAX_BYTES = 1 << 62


class TorchRules:
    """The meaning of names in a torch file; fills ``storages`` as the program mentions them."""

    def __init__(self, limits: Limits = DEFAULT) -> None:
        self.limits = limits
        self.storages: dict[str, Storage] = {}
        self.inert: dict[str, int] = {}
        self.left_out: list[str] = []

    def known(self, name: Global) -> bool:
        """Whether the name may appear; inert ones are counted."""
        if names.known(name):
            return True
        if names.inert(name):
            self.inert[name.full] = self.inert.get(name.full, 0) + 1
            return True
        return False

    def call(self, name: Global, args: tuple[Value, ...]) -> Value:
        """Return what the call stands for."""
        full = name.full
        if full in names.DICTS:
            return _mapped(full, args)
        if full in names.LISTS:
            return list(args[0]) if args and isinstance(args[0], list | tuple) else []
        if full == "builtins.bytes" and not args:
            return b""  # how protocols 0 to 2 write no bytes
        if full in names.OPAQUE_TENSORS:
            return self._leave_out(full, full.rpartition("_rebuild_")[2])
        if full in names.REBUILDS:
            return self._rebuild(full, args)
        return Opaque(full, args)

    def _rebuild(self, full: str, args: tuple[Value, ...]) -> Value:
        match full.rpartition(".")[2]:
            case "_rebuild_tensor" | "_rebuild_tensor_v2":
                return self._view(args, None, args[6:])
            case "_rebuild_tensor_v3":
                return self._view(args, _argument(args, 6), args[7:])
            case "_rebuild_parameter" | "_rebuild_parameter_with_state":
                return _argument(args, 0)
            case "_rebuild_from_type_v2":
                return self._from_type(args)
            case "Size":
                return tuple(_sizes(_argument(args, 0)))
            case _:
                return _encoded(args)

    def _from_type(self, args: tuple[Value, ...]) -> Value:
        function, inner = _argument(args, 0), _argument(args, 2)
        if not isinstance(function, Global) or not isinstance(inner, tuple):
            raise BadCallError("needs a function and its arguments")
        if function.full == "torch._tensor._rebuild_from_type_v2":
            raise BadCallError("is nested in itself")
        return self.call(function, inner)

    def persistent(self, pid: Value) -> Value:
        """Return the storage of ``('storage', type, key, location, numel)``."""
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
            raise BadCallError(f"not a storage: {_short(pid)}")
        _, kind, key, _, numel = pid[:5]
        if not isinstance(kind, Global) or not isinstance(key, str) or not _natural(numel):
            raise BadCallError(f"not a storage: {_short(pid)}")
        if len(pid) == 6 and pid[5] is not None:
            raise BadCallError("a view on another storage, which only torch before 0.4 wrote")
        if kind.module in ("torch", "torch.cuda") and kind.name in QUANTIZED_STORAGES:
            return Opaque(kind.full)
        dtype = self._storage_dtype(kind)
        nbytes = numel * (item_bytes(dtype) if dtype else 1)
        old = self.storages.setdefault(key, Storage(key, dtype, nbytes))
        if (old.dtype, old.nbytes) != (dtype, nbytes):
            raise BadCallError(f"storage {key!r} appears with two types or sizes")
        return old

    def _storage_dtype(self, kind: Global) -> DType | None:
        if kind.full in ("torch.storage.UntypedStorage", "torch.UntypedStorage"):
            return None
        if kind.module in ("torch", "torch.cuda") and kind.name in STORAGE_CLASSES:
            return STORAGE_CLASSES[kind.name]
        raise BadCallError(f"{shown(kind.full)} is not a storage type")

    def _leave_out(self, full: str, what: str) -> Opaque:
        """Note a tensor that is not read; its parts would look like tensors of the model."""
        self.left_out.append(what)
        return Opaque(full)

    def _view(self, args: tuple[Value, ...], kind: Value, metadata: tuple[Value, ...]) -> Value:
        storage, offset, shape, stride = (_argument(args, i) for i in range(4))
        if not isinstance(storage, Storage) or not _natural(offset):
            raise BadCallError("needs a storage and an offset")
        if kind is not None and _is_opaque(kind):
            return self._leave_out(kind.full, f"{kind.name} tensor")
        if any(metadata):
            # A view that is conjugated or negated when it is looked at: the bytes are other numbers.
            return self._leave_out("torch.Tensor", "lazily conjugated or negated tensor")
        dtype = storage.dtype if kind is None else _dtype(kind)
        if dtype is None:
            raise BadCallError("an untyped storage without a dtype")
        sizes, steps = _sizes(shape), _sizes(stride)
        if len(sizes) != len(steps) or len(sizes) > _MAX_DIMS:
            raise BadCallError(f"shape {_short(shape)} does not fit stride {_short(stride)}")
        item = item_bytes(dtype)
        self._check(storage, offset, sizes, steps, item)
        return TensorView(storage, dtype, item, offset * item, sizes, steps)

    def _check(
        self,
        storage: Storage,
        offset: int,
        shape: tuple[int, ...],
        stride: tuple[int, ...],
        item: int,
    ) -> None:
        last = offset if 0 not in shape else offset - 1
        if 0 not in shape:
            last += sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
        if (last + 1) * item > storage.nbytes:
            raise BadCallError(
                f"shape {list(shape)} from element {offset} reaches byte {(last + 1) * item} "
                f"of storage {storage.key!r}, which has {storage.nbytes}"
            )
        total = prod(shape) * item
        if total > min(max(storage.nbytes, self.limits.expanded_view_bytes), _MAX_BYTES):
            raise BadCallError(
                f"shape {list(shape)} needs {total} bytes out of a storage of {storage.nbytes}"
            )


def _mapped(full: str, args: tuple[Value, ...]) -> Mapped:
    made = Mapped(full)
    items = args[-1] if args else None
    if isinstance(items, dict):
        made.update(items)
    elif isinstance(items, list | tuple):  # Python 2 wrote OrderedDict([[key, value], …])
        for pair in items:
            if not isinstance(pair, list | tuple) or len(pair) != 2:
                raise BadCallError("needs pairs of key and value")
            if not isinstance(pair[0], str | int | float | bytes | None | Global):
                raise BadCallError("has a key that is not a scalar")
            made[pair[0]] = pair[1]
    return made


def _encoded(args: tuple[Value, ...]) -> bytes:
    """``_codecs.encode(text, 'latin1')``: how protocol 2 writes bytes. No other codec is honest."""
    if len(args) != 2 or not isinstance(args[0], str) or args[1] not in ("latin1", "latin-1"):
        raise BadCallError("only latin1 text is read as bytes")
    try:
        return args[0].encode("latin-1")
    except UnicodeEncodeError:
        raise BadCallError("the text is not latin1") from None


def _argument(args: tuple[Value, ...], index: int) -> Value:
    if index >= len(args):
        raise BadCallError(f"has {len(args)} arguments, too few")
    return args[index]


def _natural(value: Value) -> bool:
    return type(value) is int and 0 <= value < _MAX_BYTES


def _sizes(value: Value) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or not all(_natural(n) for n in value):
        raise BadCallError(f"{_short(value)} is not a shape")
    return tuple(value)


def _is_opaque(kind: Value) -> bool:
    return isinstance(kind, Global) and kind.module == "torch" and kind.name in OPAQUE_DTYPES


def _dtype(kind: Value) -> DType:
    if isinstance(kind, Global) and kind.module == "torch" and kind.name in TORCH_DTYPES:
        return TORCH_DTYPES[kind.name]
    raise BadCallError(f"{_short(kind)} is not a dtype")


def _short(value: Value) -> str:
    """Show a foreign value in a few characters, without walking it."""
    if isinstance(value, str | bytes):
        return repr(value[:40])
    if isinstance(value, list | tuple) and len(value) <= 8:
        if all(isinstance(v, str | int | float) for v in value):
            return repr(value)[:80]
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, Global):
        return shown(value.full)
    return type(value).__name__
