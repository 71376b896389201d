from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants

from memcard.core.tensors import QUANTIZED
from memcard.errors import UsageError
from memcard.maths import quantized
from memcard.maths.floats import STORED
from memcard.maths.quantized import READABLE, can_dequantize, dequantize


def blocks(name: str, count: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """Random blocks; any bytes are lawful ones."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, QUANTIZED[name].block_bytes), dtype=np.uint8)


def by_the_reference(name: str, raw: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    with np.errstate(all="ignore"):
        return quants.dequantize(raw, GGMLQuantizationType[name]).reshape(-1)


def ours(name: str, raw: np.ndarray[Any, Any], dtype: str) -> tuple[np.ndarray[Any, Any], int]:
    out = np.empty(len(raw) * QUANTIZED[name].block, STORED[dtype])
    return out, dequantize(memoryview(raw.tobytes()), QUANTIZED[name], out)


@pytest.mark.parametrize("name", sorted(READABLE))
def test_values_are_those_of_the_reference_bit_by_bit(name: str) -> None:
    raw = blocks(name, 3 * 65536 // QUANTIZED[name].block + 7)  # several rounds, the last one short

    values, bad = ours(name, raw, "F32")

    expected = by_the_reference(name, raw)
    finite = np.isfinite(expected)
    assert np.array_equal(values.view("u4")[finite], expected.view("u4")[finite])
    assert np.array_equal(np.isfinite(values), finite)
    assert bad == np.count_nonzero(~finite)


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F64"])
def test_other_dtypes_are_rounded_once_from_float32(dtype: str) -> None:
    rng = np.random.default_rng(1)
    raw = quants.quantize(rng.standard_normal((8, 512)).astype("f4"), GGMLQuantizationType.Q5_1)

    values, _ = ours("Q5_1", raw.reshape(-1, 24), dtype)

    expected = by_the_reference("Q5_1", raw.reshape(-1, 24)).astype(STORED[dtype])
    assert values.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    "name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0", "MXFP4"]
)
def test_what_the_reference_quantises_comes_back_close(name: str) -> None:
    values = np.random.default_rng(2).standard_normal((4, 256)).astype("f4")
    raw = quants.quantize(values, GGMLQuantizationType[name])

    found, _ = ours(name, raw.reshape(-1, QUANTIZED[name].block_bytes), "F32")

    error = np.abs(found - values.reshape(-1)).mean()
    assert error < (1.0 if name.startswith("TQ") else 0.2)  # ternary is as coarse as that


def test_what_gguf_can_is_what_is_promised() -> None:
    able = {kind.name for kind in quants._type_traits if kind.name in QUANTIZED}  # type: ignore[attr-defined]

    assert able == READABLE
    assert not can_dequantize(QUANTIZED["Q8_K"])
    assert can_dequantize(QUANTIZED["IQ1_M"])


def test_without_gguf_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr("memcard.core.extras.find_spec", lambda n: None if n == "gguf" else real(n))
    quantized._kernel.cache_clear()

    with pytest.raises(UsageError, match=r"pip install 'memcard\[gguf\]'"):
        ours("Q8_0", blocks("Q8_0", 1), "F32")
