"""What a tensor is before anyone computes with it: a dtype and a shape.

Dtype names are those of safetensors 0.8; types that only torch knows carry torch's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class DType:
    """How values are packed: ``block`` elements take ``block_bytes`` bytes."""

    name: str
    block: int
    block_bytes: int
    is_float: bool = False

    def __str__(self) -> str:
        return self.name


def _whole(bits: int, *names: str, is_float: bool = False) -> list[DType]:
    """Dtypes of ``bits`` bits; narrow ones are packed into the smallest whole number of bytes."""
    block = 1 if bits % 8 == 0 else (2 if bits == 4 else 4)
    return [DType(n, block, block * bits // 8, is_float) for n in names]


_ALL = [
    *_whole(8, "BOOL", "U8", "I8"),
    *_whole(16, "U16", "I16"),
    *_whole(32, "U32", "I32"),
    *_whole(64, "U64", "I64"),
    *_whole(4, "F4", is_float=True),
    *_whole(6, "F6_E2M3", "F6_E3M2", is_float=True),
    *_whole(
        8,
        *("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"),
        is_float=True,
    ),
    *_whole(16, "F16", "BF16", is_float=True),
    *_whole(32, "F32", "C32", is_float=True),  # C32: torch's complex of two halves
    *_whole(64, "F64", "C64", is_float=True),
    *_whole(128, "C128", is_float=True),
]

DTYPES: Mapping[str, DType] = {d.name: d for d in _ALL}


@dataclass(frozen=True, slots=True)
class Spec:
    """Everything about a tensor except its values."""

    dtype: DType
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Number of values."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size of the values, row-major and unpadded, in bytes."""
        return self.elements * self.dtype.block_bytes // self.dtype.block

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


Specs: TypeAlias = Mapping[str, Spec]
