from __future__ import annotations

from math import inf, isnan, nan

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memcard.core.tensors import DTYPES, QUANTIZED
from memcard.maths.compare import Distance, distance, has_values, same_bytes, squares
from memcard.maths.floats import BLOCK

F16, F32, F64, BF16 = (DTYPES[name] for name in ("F16", "F32", "F64", "BF16"))
NUMPY = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
}


def raw(array: np.ndarray) -> memoryview:
    return memoryview(np.ascontiguousarray(array).tobytes())


def plain(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """The definitions, in one line each."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    norm = np.linalg.norm
    return norm(b - a) / norm(a), float(a @ b) / (norm(a) * norm(b))


@pytest.mark.parametrize("name", NUMPY)
def test_norm_and_cosine_are_what_their_definitions_say(name: str) -> None:
    rng = np.random.default_rng(0)
    a = rng.uniform(8, 90, 2 * BLOCK + 77).astype(NUMPY[name])
    b = (a.astype(np.float64) + rng.standard_normal(a.size)).astype(NUMPY[name])

    found = distance(raw(a), DTYPES[name], raw(b), DTYPES[name])

    relative, cosine = plain(a, b)
    assert found.relative == pytest.approx(relative, rel=1e-12)
    assert found.cosine == pytest.approx(cosine, rel=1e-12)
    assert found.largest == np.abs(b.astype(np.float64) - a.astype(np.float64)).max()
    assert (found.values, found.equal) == (a.size, int((a == b).sum()))
    assert found.odd == 0


@pytest.mark.parametrize(("one", "two"), [("F32", "F16"), ("BF16", "F64"), ("F8_E4M3", "F16")])
def test_different_dtypes_are_compared_as_values(one: str, two: str) -> None:
    values = np.arange(-8, 8, 0.5)

    found = distance(
        raw(values.astype(NUMPY[one])), DTYPES[one], raw(values.astype(NUMPY[two])), DTYPES[two]
    )

    assert found.same
    assert (found.relative, found.cosine, found.largest) == (0.0, pytest.approx(1.0), 0.0)


def test_rounding_to_a_narrower_dtype_is_a_small_distance() -> None:
    a = np.random.default_rng(1).standard_normal(10_000).astype(np.float32)

    found = distance(raw(a), F32, raw(a.astype(np.float16)), F16)

    assert not found.same
    assert 1e-5 < (found.relative or 0) < 3e-4


def test_equal_bits_of_nan_are_equal_and_what_is_not_finite_is_left_out() -> None:
    a = np.array([1.0, nan, inf, 2.0, nan, 3.0], np.float32)
    b = np.array([1.0, nan, inf, 2.5, 1.0, -inf], np.float32)

    found = distance(raw(a), F32, raw(b), F32)

    assert (found.equal, found.odd) == (3, 4)
    assert found.relative == pytest.approx(0.5 / 5**0.5)
    assert found.largest == 0.5


def test_equal_values_of_other_dtypes_count_nan_as_equal() -> None:
    a, b = np.array([nan, 1.0, inf], np.float32), np.array([nan, 1.0, inf], np.float16)

    assert distance(raw(a), F32, raw(b), F16).same


def test_the_two_zeros_have_different_bits_and_no_distance() -> None:
    a, b = np.array([0.0, 1.0], np.float32), np.array([-0.0, 1.0], np.float32)

    found = distance(raw(a), F32, raw(b), F32)

    assert (found.equal, found.relative) == (1, 0.0)


@pytest.mark.parametrize(
    ("a", "b", "relative", "cosine"),
    [
        ([0, 0], [0, 0], 0.0, 1.0),
        ([0, 0], [1, 0], inf, None),
        ([1, 0], [0, 0], 1.0, None),
        ([1, 0], [-1, 0], 2.0, -1.0),
        ([3, 4], [6, 8], 1.0, 1.0),
        ([1, 0], [0, 1], 2**0.5, 0.0),
        ([], [], 0.0, None),
    ],
)
def test_edges(a: list[float], b: list[float], relative: float, cosine: float | None) -> None:
    found = distance(raw(np.array(a, np.float64)), F64, raw(np.array(b, np.float64)), F64)

    assert found.relative == pytest.approx(relative)
    assert found.cosine == (None if cosine is None else pytest.approx(cosine))


def test_sums_that_overflow_give_no_figure() -> None:
    a = np.full(4, 1e200)

    found = distance(raw(a), F64, raw(-a), F64)

    assert (found.relative, found.cosine) == (None, None)


@given(st.lists(st.integers(0, 255), min_size=1, max_size=40), st.integers(0, 2**32))
def test_sums_of_parts_add_up(codes: list[int], seed: int) -> None:
    a = np.array(codes, np.uint8)
    b = np.random.default_rng(seed).integers(0, 256, a.size).astype(np.uint8)
    kind, half = DTYPES["U8"], len(a) // 2

    whole = distance(raw(a), kind, raw(b), kind)
    parts = distance(raw(a[:half]), kind, raw(b[:half]), kind) + distance(
        raw(a[half:]), kind, raw(b[half:]), kind
    )

    assert parts == whole  # small whole numbers add without rounding


def test_complex_numbers_are_compared_as_pairs() -> None:
    a = np.array([1 + 1j, 2 + 0j, 3 - 1j], np.complex64)
    b = np.array([1 + 1j, 2 + 1j, 3 - 1j], np.complex64)

    found = distance(raw(a), DTYPES["C64"], raw(b), DTYPES["C64"])
    wide = distance(raw(a), DTYPES["C64"], raw(b.astype(np.complex128)), DTYPES["C128"])
    real = distance(raw(a), DTYPES["C64"], raw(b.real), F32)

    assert (found.values, found.equal, found.largest) == (3, 2, 1.0)
    assert found.relative == pytest.approx(1 / 16**0.5)
    assert wide.relative == found.relative
    assert (real.equal, real.relative) == (0, None)


def test_packed_fours_are_read_low_half_first() -> None:
    kind = DTYPES["F4"]
    a, b = bytes([0x21, 0x00]), np.array([0.5, 1.0, 0.0, 0.0], np.float32)

    assert distance(memoryview(a), kind, raw(b), F32).same
    assert distance(memoryview(a), kind, memoryview(bytes([0x21, 0x01])), kind).equal == 2


def test_a_dtype_without_numbers_is_compared_by_its_bytes() -> None:
    kind = DTYPES["F6_E2M3"]
    a, b = memoryview(bytes(6)), memoryview(bytes(5) + b"\1")

    found = distance(a, kind, b, kind)

    assert not has_values(kind)
    assert (found.values, found.equal, found.relative) == (8, 4, None)
    assert isnan(squares(a, kind))
    assert distance(a, kind, raw(np.zeros(8, np.float32)), F32).equal == 0


def test_quantised_blocks_are_compared_as_the_values_they_stand_for() -> None:
    quants = pytest.importorskip("gguf.quants")
    from gguf import GGMLQuantizationType as Kind

    values = np.random.default_rng(0).standard_normal((2, 512)).astype(np.float32)
    packed = quants.quantize(values, Kind.Q8_0)
    back = quants.dequantize(packed, Kind.Q8_0)

    found = distance(raw(values), F32, raw(packed), QUANTIZED["Q8_0"])

    assert found.relative == pytest.approx(plain(values.ravel(), back.ravel())[0])
    assert distance(raw(packed), QUANTIZED["Q8_0"], raw(back), F32).same


def test_squares_leave_out_what_is_not_finite() -> None:
    values = np.full(BLOCK + 1, 2.0, np.float32)
    values[[0, 5]] = nan, inf

    assert squares(raw(values), F32) == 4.0 * (BLOCK - 1)


@given(st.binary(max_size=40), st.integers(0, 39))
def test_same_bytes(data: bytes, at: int) -> None:
    other = bytearray(data)
    assert same_bytes(memoryview(data), memoryview(other))

    assert not same_bytes(memoryview(data), memoryview(data + b"x"))
    if at < len(other):
        other[at] ^= 1
        assert not same_bytes(memoryview(data), memoryview(other))


def test_nothing_is_no_distance() -> None:
    empty = Distance()

    assert (empty.same, empty.share, empty.relative) == (True, 1.0, 0.0)


def test_the_same_as_torch_says() -> None:
    a, b = torch.randn(5000), torch.randn(5000)

    found = distance(raw(a.numpy()), F32, raw(b.numpy()), F32)

    cosine = torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=0).item()
    assert found.cosine == pytest.approx(cosine, abs=1e-12)
