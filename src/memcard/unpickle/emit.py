"""Write the small pickle program of a state dict, as torch writes it (protocol 2).

Only what ``torch.load(weights_only=True)`` reads: an OrderedDict of tensors, text, one dict level.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from memcard.core.tensors import DType, Spec, Specs
from memcard.unpickle.torch_dtypes import STORAGE_CLASSES, TORCH_DTYPES
from memcard.unpickle.tree import METADATA_KEY

_ORDERED_DICT = b"ccollections\nOrderedDict\n"
_CLASS_OF = {dtype: name for name, dtype in STORAGE_CLASSES.items()}
_NAME_OF: dict[DType, str] = {}
for _name, _dtype in TORCH_DTYPES.items():
    _NAME_OF.setdefault(_dtype, _name)


def can_store(spec: Spec) -> bool:
    """Whether torch has this dtype, and a shape for it (pairs of F4 along the last axis)."""
    if spec.dtype not in _NAME_OF:
        return False
    return spec.dtype.block == 1 or (bool(spec.shape) and spec.shape[-1] % spec.dtype.block == 0)


def state_dict_program(
    specs: Specs, keys: Mapping[str, str], metadata: Mapping[str, str] | None
) -> bytes:
    """Return the program of ``{"state_dict": …}``, or of the bare dict if ``metadata`` is None.

    Args:
        specs: every dtype passes ``can_store``.
        keys: tensor name to storage key.
        metadata: kept beside ``state_dict`` under ``memcard_metadata`` unless empty.
    """
    tensors = b"".join(_text(name) + _tensor(spec, keys[name]) for name, spec in specs.items())
    model = _ORDERED_DICT + b")R(" + tensors + b"u"
    if metadata is None:
        return b"\x80\x02" + model + b"."
    body = _text("state_dict") + model
    if metadata:
        pairs = b"".join(_text(k) + _text(v) for k, v in metadata.items())
        body += _text(METADATA_KEY) + b"}(" + pairs + b"u"
    return b"\x80\x02}(" + body + b"u."


def _tensor(spec: Spec, key: str) -> bytes:
    dtype = spec.dtype
    shape = spec.shape
    if dtype.block > 1:
        shape = (*shape[:-1], shape[-1] // dtype.block)
    typed = dtype in _CLASS_OF
    kind = f"ctorch\n{_CLASS_OF[dtype]}\n" if typed else "ctorch.storage\nUntypedStorage\n"
    count = spec.nbytes // dtype.block_bytes if typed else spec.nbytes
    storage = b"(" + _text("storage") + kind.encode() + _text(key) + _text("cpu") + _int(count)
    call = b"ctorch._utils\n_rebuild_tensor_" + (b"v2\n(" if typed else b"v3\n(")
    hooks = _ORDERED_DICT + b")R"
    last = b"" if typed else f"ctorch\n{_NAME_OF[dtype]}\n".encode()
    return b"".join(
        (
            *(call, storage, b"tQ", _int(0), _tuple(shape), _tuple(_strides(shape))),
            *(b"\x89", hooks, last, b"tR"),
        )
    )


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step)
        step *= max(n, 1)
    return tuple(reversed(strides))


def _tuple(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(_int, values)) + b"t" if values else b")"


def _text(text: str) -> bytes:
    raw = text.encode("utf-8")
    return b"X" + struct.pack("<I", len(raw)) + raw


def _int(n: int) -> bytes:
    if n < 1 << 8:
        return b"K" + bytes([n])
    if n < 1 << 16:
        return b"M" + struct.pack("<H", n)
    if n < 1 << 31:
        return b"J" + struct.pack("<i", n)
    raw = n.to_bytes((n.bit_length() + 8) // 8, "little")
    return b"\x8a" + bytes([len(raw)]) + raw
