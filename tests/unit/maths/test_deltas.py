"""Changes from a base, block by block: numpy's bits and the compiled loops' bits are the same."""

import numpy as np
import pytest

from memcard.core.tensors import DTYPES
from memcard.maths import deltas, rounding
from memcard.maths.select import EVERYTHING, NOTHING, Cut, keys_of

RNG = np.random.default_rng(3)


@pytest.fixture(params=["numpy", "compiled"])
def way(request, monkeypatch):
    monkeypatch.setattr(rounding, "_kernels", rounding._Kernels())
    monkeypatch.setattr(rounding, "_WORTH", 0 if request.param == "compiled" else 1 << 62)
    assert (rounding.compiled(1) is None) == (request.param == "numpy")
    return request.param


def bits(values):
    return np.asarray(values).view(np.uint64)


def test_every_half_is_widened_exactly(way):
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    out = np.empty(halves.size)

    deltas.decode(halves, out)

    exact, nan = halves.astype(np.float64), np.isnan(halves)
    assert np.array_equal(bits(out[~nan]), bits(exact[~nan]))
    assert np.isnan(out[nan]).all()
    assert np.array_equal(np.signbit(out[nan]), np.signbit(halves[nan]))


@pytest.mark.parametrize(
    "dtypes", [("F16", "F16"), ("F16", "BF16"), ("F32", "F16"), ("F64", "F64")]
)
def test_changes_are_differences_in_float64(way, dtypes):
    arrays = [
        (RNG.standard_normal(150_001) * 0.1).astype(np.float32).astype(t)
        for t in (
            {"F16": "f2", "F32": "f4", "F64": "f8", "BF16": deltas.stored(memoryview(b""), DTYPES["BF16"]).dtype}[d]
            for d in dtypes
        )
    ]  # fmt: skip
    parts = [memoryview(a.view(np.uint8)) for a in arrays]

    found = [
        (at, base.copy(), d[0].copy())
        for at, base, d in deltas.blocks(parts, [DTYPES[d] for d in dtypes])
    ]

    base, tuned = (a.astype(np.float64) for a in arrays)
    assert [at for at, _, _ in found] == list(range(0, 150_001, deltas.BLOCK))
    assert np.array_equal(np.concatenate([b for _, b, _ in found]), base)
    assert np.array_equal(np.concatenate([d for _, _, d in found]), tuned - base)


def elected(terms, weights, mean, votes):
    """TIES' election, value by value."""
    out = []
    for column, vote in zip(zip(*terms, strict=True), votes, strict=True):
        agree = [(t, w) for t, w in zip(column, weights, strict=True) if t * (1 if vote >= 0 else -1) > 0]  # fmt: skip
        share = sum(w for _, w in agree)
        out.append(sum(t for t, _ in agree) / (share if mean and share else 1))
    return out


@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.5, 2.0, -0.25)])
def test_an_election_equals_the_plain_loop(way, weights, mean):
    terms = [np.round(RNG.standard_normal(999), 1) for _ in weights]
    weighted = [t * w for t, w in zip(terms, weights, strict=True)]
    votes = (weighted[0] + weighted[1]) + weighted[2]

    found = deltas.elect([t.copy() for t in terms], weights, mean=mean)

    assert np.allclose(found, elected(weighted, weights, mean, votes), rtol=1e-14, atol=1e-16)


def test_equal_votes_elect_without_the_weights(way):
    terms = [np.array([1.0, 1.0]), np.array([-2.0, -0.5])]

    found = deltas.elect([t.copy() for t in terms], (0.9, 0.1), mean=True, equal_votes=True)

    assert found.tolist() == [-2.0, 1.0]


def test_both_ways_elect_the_same_bits_of_anything(monkeypatch):
    odd = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-310, -1e308]
    grid = np.array(np.meshgrid(odd, odd, odd)).reshape(3, -1)
    found = []
    for worth in (0, 1 << 62):
        monkeypatch.setattr(rounding, "_kernels", rounding._Kernels())
        monkeypatch.setattr(rounding, "_WORTH", worth)
        with np.errstate(all="ignore"):
            found.append(deltas.elect([r.copy() for r in grid], (0.5, 1.5, -1.0), mean=True).copy())

    one, two = found
    assert np.array_equal(np.isnan(one), np.isnan(two))
    assert np.array_equal(bits(one[~np.isnan(one)]), bits(two[~np.isnan(two)]))


@pytest.mark.parametrize("start", [0, 5, 8, 100])
def test_keeping_what_ranks_before_a_cut(way, start):
    values = np.array([3.0, -2.0, 2.0, -0.0, 1.0, -2.0])
    cut = Cut(int(keys_of(np.array([2.0]))[0]), 7)

    deltas.keep_before(values, start, cut)

    ties = np.arange(start, start + 6) <= 7
    expected = [3.0, -2.0 * ties[1], 2.0 * ties[2], 0, 0, -2.0 * ties[5]]
    assert values.tolist() == expected


def test_keeping_everything_and_nothing(way):
    values = np.array([np.inf, -1.0, np.nan])
    kept, gone = values.copy(), values.copy()

    deltas.keep_before(kept, 0, EVERYTHING)
    deltas.keep_before(gone, 0, NOTHING)

    assert np.array_equal(bits(kept), bits(values))
    assert gone.tolist() == [0, 0, 0]


def test_a_mask_removes_infinities_too():
    values = np.array([np.inf, np.nan, -1.0])

    deltas.zero_unless(np.array([False, False, True]), values)

    assert values.tolist() == [0, 0, -1]


def test_dot_products_do_not_depend_on_the_alignment():
    values = RNG.standard_normal(10_001)
    shifted = np.empty(10_002)[1:]
    shifted[:] = values

    assert deltas.dot(values, values) == deltas.dot(shifted, shifted)
    assert abs(deltas.dot(values, values) - np.dot(values, values)) < 1e-8
