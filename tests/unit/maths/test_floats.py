"""Conversions against numpy's and ml_dtypes' own, value by value."""

import ml_dtypes
import numpy as np
import pytest

from memcard.maths.floats import BLOCK, combine, decode, encode

HALF, BRAIN = np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)
EVERY = np.arange(1 << 16, dtype=np.uint16)


def same_bits(a, b):
    return np.array_equal(a.view(f"u{a.itemsize}"), b.view(f"u{b.itemsize}"))


@pytest.mark.parametrize("dtype", [HALF, BRAIN], ids=str)
@pytest.mark.parametrize("finite_only", [True, False])
def test_decode_is_exact_for_every_16_bit_pattern(dtype, finite_only):
    values = EVERY.view(dtype)
    values = values[np.isfinite(values)] if finite_only else values
    wide = np.empty(values.size, np.float32)

    decode(values, wide)

    assert same_bits(wide, values.astype(np.float32))


@pytest.mark.parametrize("dtype", [HALF, BRAIN], ids=str)
def test_encode_rounds_random_patterns_like_the_reference(dtype):
    patterns = np.random.default_rng(0).integers(0, 1 << 32, 1 << 18, dtype=np.uint32)
    values = patterns.view(np.float32)
    limit = 65520 if dtype == HALF else 3.38e38
    values = values[np.abs(values) < limit]
    out = np.empty(values.size, dtype)

    bad = encode(values.copy(), out)

    assert bad == 0
    assert same_bits(out, values.astype(dtype))


@pytest.mark.parametrize("dtype", [HALF, BRAIN], ids=str)
@pytest.mark.parametrize("beside", [-np.inf, 0.0, np.inf], ids=["below", "tie", "above"])
def test_encode_rounds_ties_to_even_and_their_neighbours_away(dtype, beside):
    exact = np.unique(EVERY.view(dtype)[np.isfinite(EVERY.view(dtype))].astype(np.float64))
    exact = exact[np.abs(exact) < 1e38]
    ties = ((exact[1:] + exact[:-1]) / 2).astype(np.float32)
    values = ties if beside == 0.0 else np.nextafter(ties, np.float32(beside))
    out = np.empty(values.size, dtype)

    encode(values.copy(), out)

    assert same_bits(out, values.astype(dtype))


@pytest.mark.parametrize("dtype", [HALF, BRAIN, np.dtype(np.float32)], ids=str)
def test_encode_counts_what_is_not_finite(dtype):
    values = np.array([1.0, np.nan, np.inf, -np.inf, -0.0], np.float32)
    out = np.empty(5, dtype)

    assert encode(values.copy(), out) == 3
    assert np.isnan(out[1])
    assert np.isposinf(out[2])
    assert np.signbit(out[4])


def test_encode_counts_overflow():
    out = np.empty(2, HALF)

    assert encode(np.array([65519.0, 65520.0], np.float32), out) == 1
    assert out[0] == 65504


@pytest.mark.parametrize("name", [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2])
def test_encode_counts_overflow_of_eight_bits(name):
    out = np.empty(3, name)

    assert encode(np.array([1.0, 1e9, 0.5], np.float32), out) == 1


@pytest.mark.parametrize(
    ("dtype", "work"), [(HALF, np.float32), (BRAIN, np.float32), (np.dtype("f4"), np.float64)],
    ids=["F16", "BF16", "F32"],
)  # fmt: skip
def test_combine_equals_exact_arithmetic_rounded_once(dtype, work):
    rng = np.random.default_rng(1)
    size = 3 * BLOCK + 17
    parts = [(rng.standard_normal(size) * 0.05).astype(dtype) for _ in range(3)]
    shares, out = (0.5, 0.2, 0.3), np.empty(size, dtype)

    combine(parts, shares, out, work)

    exact = sum(w * p.astype(np.float64) for w, p in zip(shares, parts, strict=True))
    expected = exact.astype(dtype)
    unsigned = f"u{dtype.itemsize}"
    differing = out.view(unsigned) != expected.view(unsigned)
    assert differing.mean() <= 1e-3
    steps = out.view(f"i{dtype.itemsize}").astype(int) - expected.view(f"i{dtype.itemsize}")
    assert np.abs(steps[exact != 0]).max() <= 1
