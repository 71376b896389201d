"""What torch's rebuild functions would build: strided views on storages, checked, never made.

Source: torch 2.13 ``torch/_utils.py`` and ``torch/serialization.py``.
"""

from __future__ import annotations

import re
from math import prod

from memcard.core.limits import DEFAULT, Limits
from memcard.core.tensors import DType
from memcard.unpickle import names, torch_parts
from memcard.unpickle.keys import Keys
from memcard.unpickle.nodes import (
    BadCallError,
    Global,
    Mapped,
    Opaque,
    Storage,
    TensorView,
    UnsafeCallError,
    Value,
    short,
    shown,
)
from memcard.unpickle.torch_dtypes import (
    QUANTIZED_STORAGES,
    RAW_DTYPES,
    STORAGE_CLASSES,
    TORCH_DTYPES,
    item_bytes,
)

_MAX_DIMS = 64
_MAX_BYTES = 1 << 62
_SHOWN_ID = re.compile(
    r"\('storage', <class '([A-Za-z.]+)'>, '(\w+)', '([\w:]*)', (\d{1,18})(?:, None)?\)"
)
_SHOWN_ID_LENGTH = 300


class TorchRules:
    """The meaning of names in a torch file; fills ``storages`` as the program mentions them."""

    def __init__(self, limits: Limits = DEFAULT) -> None:
        self.limits = limits
        self.storages: dict[str, Storage] = {}
        self.inert: dict[str, int] = {}
        self.left_out: list[str] = []
        self.raw: set[str] = set()  # dtypes that no other format names
        self._packed: set[str] = set()  # keys of storages with several values in a byte
        self._keys = Keys(limits)

    def known(self, name: Global) -> bool:
        """Whether the name may appear; inert ones are counted."""
        if names.known(name):
            return True
        if names.inert(name):
            self.inert[name.full] = self.inert.get(name.full, 0) + 1
            return True
        return False

    def may_call(self, name: Global) -> bool:
        """Whether the name may be called, not only be named or made bare."""
        return names.callable_(name)

    def call(self, name: Global, args: tuple[Value, ...]) -> Value:
        """Return what the call stands for."""
        full = name.full
        names.check_arguments(full, args)
        if full in names.REBUILDS:
            return self._rebuild(full, args)
        if full in names.DICTS:
            return self._mapped(full, args)
        if full in names.LISTS:
            return list(args[0]) if args and isinstance(args[0], list | tuple) else []
        if full == "builtins.bytes" and not args:
            return b""  # how protocols 0 to 2 write no bytes
        if full in names.PARTS:
            return self._parts(full, args)
        if full in names.OPAQUE_TENSORS:
            return self._leave_out(full, full.rpartition("_rebuild_")[2])
        return Opaque(full, args)

    def _rebuild(self, full: str, args: tuple[Value, ...]) -> Value:
        match full.rpartition(".")[2]:
            case "_rebuild_tensor" | "_rebuild_tensor_v2":
                return self._view(args, None, args[6:7])
            case "_rebuild_tensor_v3":
                return self._view(args, _argument(args, 6), args[7:8])
            case "_rebuild_parameter" | "_rebuild_parameter_with_state":
                return _argument(args, 0)
            case "_rebuild_device_tensor_from_cpu_tensor":
                return self._same_dtype(_argument(args, 0), _argument(args, 1))
            case "_rebuild_from_type" | "_rebuild_from_type_v2":
                return self._from_type(args)
            case "Size":
                return tuple(_sizes(_argument(args, 0)))
            case _:
                return _encoded(args)

    def _parts(self, full: str, args: tuple[Value, ...]) -> Value:
        match full.rpartition("_rebuild_")[2]:
            case "qtensor":
                return self._quantised(args)
            case "njt":
                return torch_parts.jagged(args)
            case "nested_tensor":
                return torch_parts.nested(args)
            case _:
                return torch_parts.sparse(args)

    def _quantised(self, args: tuple[Value, ...]) -> Value:
        storage, _, size, _, params = (_argument(args, i) for i in range(5))
        bits = isinstance(storage, Storage) and storage.key in self._packed
        view = None if bits else self._view(args[:4], None, ())
        return torch_parts.quantised(view, storage, params, size)

    def _same_dtype(self, view: Value, kind: Value) -> Value:
        """A tensor of a device without storages (XLA), kept as one of the CPU in another dtype."""
        if isinstance(view, TensorView) and isinstance(kind, Global) and _dtype(kind) != view.dtype:
            return self._leave_out("torch.Tensor", f"tensor to be cast to {kind.name}")
        return view

    def _from_type(self, args: tuple[Value, ...]) -> Value:
        function, inner = _argument(args, 0), _argument(args, 2)
        if not isinstance(function, Global) or not isinstance(inner, tuple):
            raise BadCallError("needs a function and its arguments")
        if function.full.startswith("torch._tensor._rebuild_from_type"):
            raise BadCallError("is nested in itself")
        if self.known(function) and not names.rebuilds(function):
            raise UnsafeCallError(f"a call of {shown(function.full)} as if it made a tensor")
        return self.call(function, inner)

    def _mapped(self, full: str, args: tuple[Value, ...]) -> Mapped:
        made = Mapped(full)
        items = args[-1] if args else None
        if isinstance(items, dict):
            made.update(items)
        elif isinstance(items, list | tuple):  # Python 2 wrote OrderedDict([[key, value], …])
            for pair in items:
                if not isinstance(pair, list | tuple) or len(pair) != 2:
                    raise BadCallError("needs pairs of key and value")
                made[self._keys.check(pair[0])] = pair[1]
        return made

    def persistent(self, pid: Value) -> Value:
        """Return the storage of ``('storage', type, key, location, numel[, view])``.

        ``('module', class, file, source)`` of the format before 1.6 is the class itself. Protocol 0 knows
        only text as an id, so torch's files of protocol 0 hold the tuple as Python shows it; torch does
        not read them, though nothing is lost.
        """
        if isinstance(pid, str):
            pid = _shown_id(pid)
        if isinstance(pid, tuple) and len(pid) == 4 and pid[0] in ("module", b"module"):
            return pid[1]
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or not _is_text(pid[0], "storage"):
            raise BadCallError(f"not a storage: {short(pid)}")
        _, kind, key, _, numel = pid[:5]
        if not isinstance(kind, Global) or not isinstance(key, str) or not _natural(numel):
            raise BadCallError(f"not a storage: {short(pid)}")
        dtype = self._storage_dtype(kind)
        if torch_parts.packed(kind):
            self._packed.add(key)
        nbytes = numel * (item_bytes(dtype) if dtype else 1)
        old = self.storages.setdefault(key, Storage(key, dtype, nbytes))
        if (old.dtype, old.nbytes) != (dtype, nbytes):
            raise BadCallError(f"storage {shown(repr(key), 60)} appears with two types or sizes")
        return _window(old, pid[5]) if len(pid) == 6 and pid[5] is not None else old

    def _storage_dtype(self, kind: Global) -> DType | None:
        if kind.full in ("torch.storage.UntypedStorage", "torch.UntypedStorage"):
            return None
        if kind.module in ("torch", "torch.cuda"):
            if kind.name in STORAGE_CLASSES:
                return STORAGE_CLASSES[kind.name]
            if kind.name in QUANTIZED_STORAGES:
                return QUANTIZED_STORAGES[kind.name]
        raise BadCallError(f"{shown(kind.full)} is not a storage type")

    def _leave_out(self, full: str, what: str) -> Opaque:
        """Note a tensor that is not read; its parts would look like tensors of the model."""
        self.left_out.append(what)
        return Opaque(full)

    def _view(self, args: tuple[Value, ...], kind: Value, metadata: tuple[Value, ...]) -> Value:
        storage, offset, shape, stride = (_argument(args, i) for i in range(4))
        if not isinstance(storage, Storage) or not _natural(offset):
            raise BadCallError("needs a storage and an offset")
        dtype = storage.dtype if kind is None else self._any_dtype(kind)
        if dtype is None:
            raise BadCallError("an untyped storage without a dtype")
        sizes, steps = _sizes(shape), _sizes(stride)
        if len(sizes) != len(steps) or len(sizes) > _MAX_DIMS:
            raise BadCallError(f"shape {short(shape)} does not fit stride {short(stride)}")
        item = item_bytes(dtype)
        self._check(storage, offset, sizes, steps, item)
        start = storage.start + offset * item
        if not any(metadata):
            return TensorView(storage, dtype, item, start, sizes, steps)
        flips = _flips(metadata[0])
        if flips is None or not dtype.is_float or dtype.block > 1:
            return self._leave_out("torch.Tensor", "tensor with a lazy change of its values")
        return TensorView(storage, dtype, item, start, sizes, steps, *flips)

    def _any_dtype(self, kind: Value) -> DType:
        if isinstance(kind, Global) and kind.module == "torch" and kind.name in RAW_DTYPES:
            self.raw.add(kind.name)
            return RAW_DTYPES[kind.name]
        return _dtype(kind)

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


def _window(whole: Storage, view: Value) -> Storage:
    """Return a part of a storage: ``(key, offset, size)`` in elements, as torch 0.3 wrote views."""
    if not isinstance(view, tuple) or len(view) != 3 or not all(map(_natural, view[1:])):
        raise BadCallError(f"not a view on a storage: {short(view)}")
    item = item_bytes(whole.dtype) if whole.dtype else 1
    start, size = view[1] * item, view[2] * item
    if start + size > whole.nbytes:
        raise BadCallError(
            f"a view of {size} bytes from byte {start} of storage {shown(repr(whole.key), 60)}, "
            f"which has {whole.nbytes}"
        )
    return Storage(whole.key, whole.dtype, size, start)


def _flips(metadata: Value) -> tuple[bool, bool] | None:
    """Return whether a view is conjugated and negated when it is looked at; None if it is more."""
    if not isinstance(metadata, dict) or not all(k in ("conj", "neg") for k in metadata):
        return None
    return bool(metadata.get("conj")), bool(metadata.get("neg"))


def _shown_id(text: str) -> Value:
    """Read a persistent id back from its ``str``; any other text is returned as it is."""
    found = _SHOWN_ID.fullmatch(text) if len(text) <= _SHOWN_ID_LENGTH else None
    if found is None:
        return text
    module, _, name = found[1].rpartition(".")
    return "storage", Global(module, name), found[2], found[3], int(found[4])


def _is_text(value: Value, text: str) -> bool:
    """Whether a value is that text; Python 2 wrote bytes."""
    return isinstance(value, str | bytes) and value in (text, text.encode())


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
        raise BadCallError(f"{short(value)} is not a shape")
    return tuple(value)


def _dtype(kind: Value) -> DType:
    if isinstance(kind, Global) and kind.module == "torch" and kind.name in TORCH_DTYPES:
        return TORCH_DTYPES[kind.name]
    raise BadCallError(f"{short(kind)} is not a dtype")
