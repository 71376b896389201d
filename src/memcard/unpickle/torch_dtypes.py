"""How torch names its dtypes and storages, both ways.

Source: torch 2.13 ``torch/storage.py`` (``_dtype_to_storage_type_map``) and ``torch/serialization.py``.
"""

from __future__ import annotations

from collections.abc import Mapping

from memcard.core.tensors import DTYPES, DType

# Dtypes that have a storage class of their own; the others go through an untyped storage.
STORAGE_CLASSES: Mapping[str, DType] = {
    name: DTYPES[dtype]
    for name, dtype in {
        "FloatStorage": "F32",
        "HalfStorage": "F16",
        "BFloat16Storage": "BF16",
        "DoubleStorage": "F64",
        "LongStorage": "I64",
        "IntStorage": "I32",
        "ShortStorage": "I16",
        "CharStorage": "I8",
        "ByteStorage": "U8",
        "BoolStorage": "BOOL",
        "ComplexFloatStorage": "C64",
        "ComplexDoubleStorage": "C128",
    }.items()
}

# ``torch.<name>``; several names of one dtype are all read, the first is written.
TORCH_DTYPES: Mapping[str, DType] = {
    name: DTYPES[dtype]
    for name, dtype in {
        "float32": "F32",
        "float": "F32",
        "float16": "F16",
        "half": "F16",
        "bfloat16": "BF16",
        "float64": "F64",
        "double": "F64",
        "int64": "I64",
        "long": "I64",
        "int32": "I32",
        "int": "I32",
        "int16": "I16",
        "short": "I16",
        "int8": "I8",
        "uint8": "U8",
        "bool": "BOOL",
        "uint16": "U16",
        "uint32": "U32",
        "uint64": "U64",
        "complex32": "C32",
        "complex64": "C64",
        "complex128": "C128",
        "float8_e4m3fn": "F8_E4M3",
        "float8_e5m2": "F8_E5M2",
        "float8_e4m3fnuz": "F8_E4M3FNUZ",
        "float8_e5m2fnuz": "F8_E5M2FNUZ",
        "float8_e8m0fnu": "F8_E8M0",
        "float4_e2m1fn_x2": "F4",
    }.items()
}

# Dtypes that no other format names: kept as bytes of the same width.
RAW_DTYPES: Mapping[str, DType] = {
    "bits16": DTYPES["U16"],
    **dict.fromkeys(("bits8", "bits1x8", "bits2x4", "bits4x2"), DTYPES["U8"]),
    **{f"uint{n}": DTYPES["U8"] for n in range(1, 8)},
    **{f"int{n}": DTYPES["I8"] for n in range(1, 8)},
    **dict.fromkeys(("quint8", "quint4x2", "quint2x4"), DTYPES["U8"]),
    "qint8": DTYPES["I8"],
    "qint32": DTYPES["I32"],
}
# Storages of quantised tensors: the integers, without their scale. The packed ones hold 2 or 4 values
# in a byte and count values, not bytes.
QUANTIZED_STORAGES: Mapping[str, DType] = {
    "QInt8Storage": DTYPES["I8"],
    "QUInt8Storage": DTYPES["U8"],
    "QInt32Storage": DTYPES["I32"],
    "QUInt4x2Storage": DTYPES["U8"],
    "QUInt2x4Storage": DTYPES["U8"],
}


def item_bytes(dtype: DType) -> int:
    """Bytes of one torch element; two F4 values share one (``float4_e2m1fn_x2``)."""
    return dtype.block_bytes


def swap_unit(dtype: DType) -> int:
    """Bytes of the numbers whose order differs on a big-endian machine; complex has two per item."""
    return dtype.block_bytes // 2 if dtype.name.startswith("C") else dtype.block_bytes


def packed_shape(dtype: DType, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Turn torch's shape into values: ``float4_e2m1fn_x2`` counts pairs along the last axis."""
    if dtype.block == 1 or not shape:
        return shape
    return (*shape[:-1], shape[-1] * dtype.block)
