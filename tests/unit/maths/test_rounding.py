"""Rounding by numpy and by the compiled loops: the same bits, and those of the references."""

import ml_dtypes
import numpy as np
import pytest
import torch

from memcard.maths import rounding
from memcard.maths.rounding import Rounded, round_to

F16, BF16 = np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)
E4M3, E5M2 = np.dtype(ml_dtypes.float8_e4m3fn), np.dtype(ml_dtypes.float8_e5m2)
NARROW = [F16, BF16, E4M3, E5M2]
TORCH = {F16: torch.float16, BF16: torch.bfloat16, E5M2: torch.float8_e5m2}
SMALLEST = {F16: 2.0**-14, BF16: 2.0**-126, E4M3: 2.0**-6, E5M2: 2.0**-14}


@pytest.fixture(scope="module")
def compiled():
    from memcard.maths import _kernels

    return _kernels


@pytest.fixture(params=["numpy", "compiled"])
def way(request, monkeypatch, compiled):
    """Run a test once by each way."""
    monkeypatch.setattr(
        rounding._kernels, "_module", compiled if request.param == "compiled" else None
    )
    monkeypatch.setattr(rounding._kernels, "_tried", True)
    return request.param


def codes(array):
    return array.view(f"u{array.itemsize}")


def rounded(values, dtype):
    out = np.empty(values.size, dtype)
    counts = round_to(values.copy(), out)
    return out, counts


def patterns(wide, count=1 << 17):
    bits = np.random.default_rng(0).integers(0, 1 << (8 * np.dtype(wide).itemsize), count, "u8")
    return bits.astype(f"u{np.dtype(wide).itemsize}").view(wide)


def boundaries(dtype):
    """Every value of the dtype, every middle between two, and the neighbours of the middles."""
    with np.errstate(all="ignore"):
        values = np.arange(1 << (8 * dtype.itemsize)).astype(f"u{dtype.itemsize}").view(dtype)
        exact = np.unique(values.astype("f8")[np.isfinite(values.astype("f8"))])
    middle = (exact[1:] + exact[:-1]) / 2
    return np.concatenate(
        [exact, middle, np.nextafter(middle, np.inf), np.nextafter(middle, -np.inf)]
    )


def nearest(values, dtype):
    """The definition, slowly: the nearest of all values, the even code where two are as near."""
    with np.errstate(all="ignore"):
        table = np.arange(1 << (8 * dtype.itemsize)).astype(f"u{dtype.itemsize}")
        exact = table.view(dtype).astype("f8")
    keep = np.isfinite(exact) & ~np.signbit(exact)
    table, exact = table[keep], exact[keep]
    order = np.argsort(exact)
    table, exact = table[order], exact[order]
    at = np.clip(np.searchsorted(exact, np.abs(values)), 1, len(exact) - 1)
    low, high = exact[at - 1], exact[at]
    up = np.abs(values) - low > high - np.abs(values)
    tie = np.abs(values) - low == high - np.abs(values)
    up |= tie & (table[at] % 2 == 0)
    sign = np.signbit(values).astype(table.dtype) << (8 * dtype.itemsize - 1)
    return np.where(up, table[at], table[at - 1]) | sign


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize("wide", ["f4", "f8"])
def test_it_is_the_nearest_value_and_the_even_one_of_two(way, wide, dtype):
    values = boundaries(dtype)
    largest = float(ml_dtypes.finfo(dtype).max)
    values = values[np.abs(values) <= largest].astype(wide)

    out, counts = rounded(values, dtype)

    assert np.array_equal(codes(out), nearest(values.astype("f8"), dtype))
    assert counts.wild == 0


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize("wide", ["f4", "f8"])
def test_both_ways_give_the_same_bits_and_counts(dtype, wide, compiled, monkeypatch):
    values = patterns(wide)
    monkeypatch.setattr(rounding._kernels, "_tried", True)
    monkeypatch.setattr(rounding._kernels, "_module", None)
    slow, slow_counts = rounded(values, dtype)
    monkeypatch.setattr(rounding._kernels, "_module", compiled)
    fast, fast_counts = rounded(values, dtype)

    assert np.array_equal(codes(slow), codes(fast))
    assert slow_counts == fast_counts


@pytest.mark.parametrize("dtype", TORCH, ids=str)
def test_torch_gives_the_same_bits_from_float32(way, dtype):
    values = patterns("f4")
    values = values[~np.isnan(values)]

    out, _ = rounded(values, dtype)

    theirs = torch.from_numpy(values).to(TORCH[dtype])
    assert np.array_equal(
        codes(out), theirs.view(torch.uint8 if dtype == E5M2 else torch.uint16).numpy()
    )


@pytest.mark.parametrize(("dtype", "codes_"), [
    (F16, [0x7E00, 0xFE00, 0x7FFF, 0x7E01]),
    (BF16, [0x7FC0, 0xFFC0, 0x7FFF, 0x7FC0]),
    (E4M3, [0x7F, 0xFF, 0x7F, 0x7F]),
    (E5M2, [0x7E, 0xFE, 0x7F, 0x7E]),
])  # fmt: skip
def test_nan_keeps_its_sign_and_the_first_bits_and_becomes_quiet(way, dtype, codes_):
    bits = np.array([0x7FC00000, 0xFFC00000, 0x7FFFFFFF, 0x7F802000], np.uint32)

    out, counts = rounded(bits.view(np.float32), dtype)

    assert codes(out).tolist() == codes_
    assert counts.wild == 4


@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_what_gets_lost_is_counted(way, dtype):
    least = SMALLEST[dtype]
    values = np.array([0.0, -0.0, 1.0, least, -least / 2, least * 1e-30, np.inf, 3e38], np.float64)

    _, counts = rounded(values, dtype)

    assert counts == Rounded(wild=1 if dtype == BF16 else 2, small=2, gone=1)


def test_e4m3_rounds_464_down_and_more_to_nan(way):
    out, counts = rounded(np.array([464.0, -464.0, 465.0]), E4M3)

    assert codes(out).tolist() == [0x7E, 0xFE, 0x7F]
    assert counts.wild == 1


def test_float64_to_float32_is_counted_too():
    out, counts = rounded(np.array([1e300, np.nan, 1e-40, 1e-60, 1.0]), np.dtype("f4"))

    assert counts == Rounded(wild=2, small=2, gone=1)
    assert np.isinf(out[0])


def test_values_that_are_not_aligned_are_rounded_as_well(way):
    raw = bytearray(4 * 100 + 1)
    values = np.frombuffer(raw, np.float32, 100, 1)
    values[:] = np.arange(100) / 7

    out = np.empty(100, F16)
    round_to(values, out)

    assert np.array_equal(out, (np.arange(100, dtype="f4") / np.float32(7)).astype(F16))


def test_the_loops_are_loaded_when_enough_was_rounded(monkeypatch, compiled):
    kernels = rounding._Kernels()
    monkeypatch.setattr(rounding, "_WORTH", 100)

    assert kernels.after(99) is None
    assert kernels.after(1) is compiled


def test_without_the_loops_numpy_goes_on(monkeypatch):
    kernels = rounding._Kernels()
    monkeypatch.setattr(rounding, "import_module", lambda name: 1 / 0)

    assert kernels.after(1 << 40) is None
    assert kernels.after(1) is None
