"""Numbers out of GGUF's packed blocks: exactly what ggml's own arithmetic gives, in float32.

The formulas are those of the PyPI package ``gguf``, which is run, not copied; it is numpy and makes
90 (IQ2_XXS) to 1400 (Q8_0) million values a second and core here.

Source: https://github.com/ggml-org/llama.cpp, gguf-py/gguf/quants.py (gguf 0.19).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from memcard.core.extras import require
from memcard.core.tensors import QUANTIZED, DType
from memcard.maths.floats import Array, combine

# ggml has no use for the values of these outside of its own products (Q8_1, Q8_K), or gguf lacks them.
_WITHOUT = frozenset({"Q8_1", "Q8_K", "Q1_0"})
READABLE = frozenset(QUANTIZED) - _WITHOUT

# Values at once: gguf's intermediate arrays of 4 to 8 times their size still fit the caches.
_AT_ONCE = 1 << 16


def can_dequantize(dtype: DType) -> bool:
    """Tell whether the values of this dtype can be had."""
    return dtype.name in READABLE


def dequantize(part: memoryview, dtype: DType, out: Array) -> int:
    """Write the values of whole blocks to ``out``, rounded once from float32.

    Args:
        part: whole blocks.
        dtype: one of ``READABLE``.
        out: stored floats, as many as the blocks hold.

    Returns:
        How many values written are NaN or infinite.

    Raises:
        UsageError: the package gguf is not installed.
    """
    kernel, kind = _kernel(dtype.name)
    blocks = np.frombuffer(part, np.uint8)
    bad, step = 0, _AT_ONCE // dtype.block
    with np.errstate(all="ignore"):  # a scale that is infinite is the file's, and counted
        for at in range(0, out.size // dtype.block, step):
            # One row: gguf goes through rows by sixteen, in a Python loop.
            row = blocks[at * dtype.block_bytes : (at + step) * dtype.block_bytes].reshape(1, -1)
            values = kernel(row, kind).reshape(-1)
            first = at * dtype.block
            bad += combine([values], [1.0], out[first : first + values.size])
    return bad


@cache
def _kernel(name: str) -> tuple[Any, Any]:
    require("gguf", what=f"reading the values of {name} blocks")
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize as kernel

    return kernel, GGMLQuantizationType[name]
