"""Low-rank sums: one result, whatever the chunks and whichever way they are added."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memcard.maths.floats import STORED
from memcard.maths.low_rank import LowRank, SingleLowRank, add_low_rank, adds_exactly, tucker


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


@pytest.mark.parametrize("rank", [1, 4, 32, 128])
def test_in_float32_it_is_the_product_of_pytorch(rank):
    torch = pytest.importorskip("torch")
    up, down = factors(3, rank, "f4")
    weight = np.random.default_rng(4).standard_normal(96 * 200).astype("f4")
    one, two, start = (torch.from_numpy(a.astype("f4")) for a in (up, down, weight))

    plain = add(weight, SingleLowRank(up, down, 1.0))
    scaled = add(weight, SingleLowRank(up, down, 0.3))

    assert plain.tobytes() == (start + (one @ two).reshape(-1)).numpy().tobytes()
    assert scaled.tobytes() == (start + 0.3 * (one @ two).reshape(-1)).numpy().tobytes()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_in_float32_a_narrow_weight_is_rounded_twice_as_by_pytorch(dtype):
    torch = pytest.importorskip("torch")
    up, down = factors(7, 8, "f4")
    one, two = (torch.from_numpy(a.astype("f4")) for a in (up, down))
    narrow = getattr(torch, dtype)
    start = torch.randn(96 * 200, generator=torch.Generator().manual_seed(8)).to(narrow)
    weight = start.view(torch.int16).numpy().view("f2" if dtype == "float16" else STORED["BF16"])

    made = add(weight, SingleLowRank(up, down, 0.7))

    expected = (start.float() + 0.7 * (one @ two).reshape(-1)).to(narrow)
    assert made.tobytes() == expected.view(torch.int16).numpy().tobytes()


def test_in_float32_chunks_never_change_a_bit():
    up, down = factors(5, 3, "f4")
    weight = np.random.default_rng(6).standard_normal(96 * 200).astype("f4")
    delta, cuts = SingleLowRank(up, down, 0.7), [0, 7, 200, 4321, 19_199, weight.size]

    parts = [add(weight[a:b], delta, start=a) for a, b in pairwise(cuts)]

    assert np.concatenate(parts).tobytes() == add(weight, delta).tobytes()


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
