"""Low-rank sums: one result, whatever the chunks and whichever way they are added."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memcard.maths.low_rank import LowRank, add_low_rank, adds_exactly, tucker


def factors(seed, rank=32, dtype="f2", spread=0.1):
    rng = np.random.default_rng(seed)
    up = (rng.standard_normal((96, rank)) * spread).astype(dtype)
    down = (rng.standard_normal((rank, 200)) * spread).astype(dtype)
    return up.astype("f8"), down.astype("f8")


def add(weight, *deltas, start=0):
    out = np.empty_like(weight)
    add_low_rank(weight, deltas, out, 200, start)
    return out


@pytest.mark.parametrize("dtype", ["f2", "f4"])
def test_is_the_matrix_product(dtype):
    up, down = factors(1)
    weight = np.random.default_rng(2).standard_normal(96 * 200).astype(dtype)

    out = add(weight, LowRank(up, down, 0.25))

    expected = weight.astype("f8") + 0.25 * (up @ down).reshape(-1)
    tolerance = 1e-3 if dtype == "f2" else 1e-7
    assert np.abs(out - expected).max() <= tolerance * np.abs(expected).max()


@given(st.integers(0, 99), st.lists(st.integers(1, 96 * 200 - 1), max_size=4))
def test_chunks_never_change_a_bit(seed, cuts):
    up, down = factors(seed, rank=3, dtype="f4")
    weight = np.random.default_rng(seed).standard_normal(96 * 200).astype("f4")
    delta = LowRank(up, down, 0.3)
    edges = [0, *sorted(cuts), weight.size]

    pieces = [add(weight[a:b], delta, start=a) for a, b in pairwise(edges)]

    assert np.concatenate(pieces).tobytes() == add(weight, delta).tobytes()


@given(st.integers(0, 999), st.sampled_from([0.01, 0.3, 2.0]))
def test_where_sums_are_exact_both_ways_give_the_same_bits(seed, spread):
    up, down = factors(seed, spread=spread)
    up[::3] = 0.0  # a LoRA that was never trained; its products are zeros of both signs
    weight = np.full(96 * 200, -0.0)

    loop, product = (add(weight, LowRank(up, down, 0.7, d)) for d in (None, ("F16", "F16")))

    assert loop.tobytes() == product.tobytes()


def test_usual_16_bit_factors_add_exactly_and_32_bit_factors_do_not():
    assert adds_exactly(*factors(1), ("F16", "F16"))
    assert adds_exactly(*factors(1, rank=128), ("F16", "F16"))
    assert not adds_exactly(*factors(1, dtype="f4"), ("F32", "F32"))


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_values_that_are_not_finite_never_count_as_exact(odd):
    up, down = factors(1)
    up[0, 0] = odd

    assert not adds_exactly(up, down, ("F16", "F16"))


def test_sums_that_would_round_never_count_as_exact():
    # 2^29 and 2^-24 in one sum take 54 bits, one more than float64 has.
    small = np.array([[2.0**-12], [2.0**-12]])

    assert adds_exactly(np.array([[2.0**15, 2.0**-12]]), small, ("F16", "F16"))
    assert not adds_exactly(np.array([[2.0**15, 2.0**-12]]), small * 2.0**26, ("F16", "F16"))


def test_a_tucker_core_is_the_einsum():
    rng = np.random.default_rng(0)
    mid, down = rng.standard_normal((4, 5, 9)), rng.standard_normal((5, 6))

    expected = np.einsum("mnk,ni->mik", mid, down).reshape(4, -1)
    assert np.allclose(tucker(mid, down), expected, rtol=0, atol=1e-14)
