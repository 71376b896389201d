"""Conversions against numpy's and ml_dtypes' own, value by value."""

import ml_dtypes
import numpy as np
import pytest

from memcard.maths.floats import BLOCK, combine, decode, encode

HALF, BRAIN = np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)
EVERY = np.arange(1 << 16, dtype=np.uint16)


def same_bits(a, b):
    return np.array_equal(a.view(f"u{a.itemsize}"), b.view(f"u{b.itemsize}"))


def finite(values):
    with np.errstate(invalid="ignore"):  # ml_dtypes warns about the NaNs it is asked about
        return np.isfinite(values)


@pytest.mark.parametrize("dtype", [HALF, BRAIN], ids=str)
@pytest.mark.parametrize("finite_only", [True, False])
def test_decode_is_exact_for_every_16_bit_pattern(dtype, finite_only):
    values = EVERY.view(dtype)
    values = values[finite(values)] if finite_only else values
    wide = np.empty(values.size)

    with np.errstate(invalid="ignore"):
        decode(values, wide)
        expected = values.astype(np.float64)

    assert np.array_equal(wide, expected, equal_nan=True)
    assert np.array_equal(np.signbit(wide), np.signbit(expected))


@pytest.mark.parametrize("dtype", [HALF, BRAIN], ids=str)
def test_encode_rounds_random_patterns_like_the_reference(dtype):
    patterns = np.random.default_rng(0).integers(0, 1 << 32, 1 << 18, dtype=np.uint32)
    values = patterns.view(np.float32)
    limit = 65520 if dtype == HALF else 3.38e38
    values = values[np.abs(values) < limit]
    out = np.empty(values.size, dtype)

    bad = encode(values.astype(np.float64), out)

    assert bad == 0
    assert same_bits(out, values.astype(dtype))


@pytest.mark.parametrize("dtype", [HALF, BRAIN], ids=str)
@pytest.mark.parametrize("beside", [-np.inf, 0.0, np.inf], ids=["below", "tie", "above"])
def test_encode_rounds_ties_to_even_and_their_neighbours_away(dtype, beside):
    exact = np.unique(EVERY.view(dtype)[finite(EVERY.view(dtype))].astype(np.float64))
    exact = exact if dtype == HALF else exact[(exact > 1e-30) & (exact < 1e38)]
    low, high = exact[:-1].astype(dtype), exact[1:].astype(dtype)
    ties = (exact[1:] + exact[:-1]) / 2
    values = ties if beside == 0.0 else np.nextafter(ties, beside)
    out = np.empty(values.size, dtype)

    encode(values.copy(), out)

    even = np.where(low.view("u2") & 1, high, low)
    expected = {-np.inf: low, 0.0: even, np.inf: high}[beside]
    assert np.array_equal(out.astype("f8"), expected.astype("f8"))


@pytest.mark.parametrize("dtype", [HALF, BRAIN, np.dtype(np.float32)], ids=str)
def test_encode_counts_what_is_not_finite(dtype):
    values = np.array([1.0, np.nan, np.inf, -np.inf, -0.0])
    out = np.empty(5, dtype)

    assert encode(values.astype(np.float64), out) == 3
    assert np.isnan(out[1])
    assert np.isposinf(out[2])
    assert np.signbit(out[4])


def test_encode_counts_overflow():
    out = np.empty(2, HALF)

    assert encode(np.array([65519.0, 65520.0]), out) == 1
    assert out[0] == 65504


@pytest.mark.parametrize("name", [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2])
def test_encode_counts_overflow_of_eight_bits(name):
    out = np.empty(3, name)

    assert encode(np.array([1.0, 1e9, 0.5]), out) == 1


@pytest.mark.parametrize("dtype", [HALF, np.dtype("f4"), np.dtype("f8")], ids=str)
@pytest.mark.parametrize("shares", [(0.7, 0.3), (0.5, 0.2, 0.3), (1 / 3,) * 3], ids=str)
def test_combine_is_float64_arithmetic_rounded_once_in_every_bit(dtype, shares):
    rng = np.random.default_rng(1)
    size = 2 * BLOCK + 17
    parts = [(rng.standard_normal(size) * 0.05).astype(dtype) for _ in shares]
    out = np.empty(size, dtype)

    combine(parts, shares, out)

    exact = parts[0].astype("f8") * shares[0]
    for part, share in zip(parts[1:], shares[1:], strict=True):
        exact += part.astype("f8") * share
    assert same_bits(out, exact.astype(dtype))


def test_combine_rounds_bfloat16_once_where_the_reference_rounds_twice():
    # ml_dtypes goes from float64 through float32; the nearest value is found here by trying.
    rng = np.random.default_rng(2)
    a, b = ((rng.standard_normal(1 << 17) * 0.05).astype(BRAIN) for _ in range(2))
    out = np.empty(a.size, BRAIN)

    combine([a, b], (0.7, 0.3), out)

    exact = 0.7 * a.astype("f8") + 0.3 * b.astype("f8")
    bits = out.view("<i2")
    error, below, above = (np.abs((bits + d).view(BRAIN).astype("f8") - exact)
                           for d in np.array([0, -1, 1], np.int16))  # fmt: skip
    normal = np.abs(exact) > 1e-30  # the neighbours of zero are not one bit pattern away
    assert np.all((error <= below)[normal] & (error <= above)[normal])
    assert (out.view("u2") == exact.astype(BRAIN).view("u2")).mean() > 0.99
