"""What a tensor is before anyone computes with it: a dtype and a shape.

Dtype names are those of safetensors 0.8; types that only torch knows carry torch's name, the packed
ones of GGUF carry ggml's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class DType:
    """How values are packed: ``block`` elements take ``block_bytes`` bytes.

    ``quantized`` blocks carry their own scales: nothing but ``dequantize`` can tell the values, and
    ``is_float`` is False, so that no operation takes them for numbers.
    """

    name: str
    block: int
    block_bytes: int
    is_float: bool = False
    quantized: bool = False

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

# Elements and bytes of a block. Source: gguf 0.19, constants.GGML_QUANT_SIZES.
_BLOCKS: Mapping[tuple[int, int], tuple[str, ...]] = {
    (32, 18): ("Q4_0", "IQ4_NL"),
    (32, 20): ("Q4_1",),
    (32, 22): ("Q5_0",),
    (32, 24): ("Q5_1",),
    (32, 34): ("Q8_0",),
    (32, 40): ("Q8_1",),
    (32, 17): ("MXFP4",),
    (64, 36): ("NVFP4",),
    (128, 18): ("Q1_0",),
    (256, 84): ("Q2_K",),
    (256, 110): ("Q3_K", "IQ3_S"),
    (256, 144): ("Q4_K",),
    (256, 176): ("Q5_K",),
    (256, 210): ("Q6_K",),
    (256, 292): ("Q8_K",),
    (256, 50): ("IQ1_S",),
    (256, 56): ("IQ1_M",),
    (256, 66): ("IQ2_XXS", "TQ2_0"),
    (256, 74): ("IQ2_XS",),
    (256, 82): ("IQ2_S",),
    (256, 98): ("IQ3_XXS",),
    (256, 136): ("IQ4_XS",),
    (256, 54): ("TQ1_0",),
}

# Apart from DTYPES: only GGUF has names for them, and no arithmetic takes them.
QUANTIZED: Mapping[str, DType] = {
    name: DType(name, block, size, quantized=True)
    for (block, size), names in _BLOCKS.items()
    for name in names
}


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
