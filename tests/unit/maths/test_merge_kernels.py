"""Merging from stored values to stored values: the bits are those of numpy's six passes."""

from itertools import product

import numpy as np
import pytest

from memcard.core.tensors import DTYPES
from memcard.maths import _merge_kernels as loops
from memcard.maths import deltas, rounding, select, stored_deltas
from memcard.maths.floats import encode, stored
from memcard.maths.select import EVERYTHING, NOTHING, Cut, keys_of

RNG = np.random.default_rng(11)
COUNT = 5001
WILD = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 6e-8, -6e-8, 65504.0])


def numbers(dtype, seed, *, wild=False):
    """Stored values as bytes; many of them lie near each other, some are equal."""
    rng = np.random.default_rng(seed)
    values = np.round(np.random.default_rng(1).standard_normal(COUNT), 2)
    values += np.round(rng.standard_normal(COUNT) * 0.1, 2)
    if wild:
        values[rng.integers(0, COUNT, 200)] = rng.choice(WILD, 200)
    out = np.empty(COUNT, stored(memoryview(b""), DTYPES[dtype]).dtype)
    with np.errstate(all="ignore"):
        encode(values, out)
    return memoryview(out.view(np.uint8))


def by_numpy(parts, dtypes, cuts, weights, *, scale, agreeing, mean, out, start):
    """What the methods do with numpy, one step after the other."""
    bad = 0
    with np.errstate(all="ignore"):
        for at, base, changes in deltas.blocks(parts, dtypes):
            for change, cut in zip(changes, cuts, strict=True):
                deltas.keep_before(change, start + at, cut)
            if agreeing:
                made = deltas.elect(changes, weights, mean=mean)
            else:
                deltas.weigh(changes, weights)
                made = deltas.total(changes)
                if mean:
                    np.divide(made, sum(weights), out=made)
            np.add(base, np.multiply(made, scale, out=made), out=base)
            bad += encode(base, out[at : at + base.size])
    return bad


@pytest.fixture
def ways(monkeypatch):
    """Call one and the same with the loops and without."""

    def use(fast):
        monkeypatch.setattr(rounding, "_kernels", rounding._Kernels())
        monkeypatch.setattr(rounding, "_WORTH", 0 if fast else 1 << 62)

    return use


def cut_of(size, last):
    return Cut(int(keys_of(np.array([size]))[0]), last)


CASES = {
    "half": (("F16", "F16", "F16"), "F16"),
    "brain": (("BF16", "BF16", "BF16"), "BF16"),
    "single": (("F32", "F32"), "F32"),
    "double": (("F64", "F64", "F64"), "F64"),
    "mixed, up": (("F16", "BF16", "F32"), "F32"),
    "mixed, down": (("F64", "F32", "F16", "BF16"), "F16"),
}


@pytest.mark.parametrize("wild", [False, True], ids=["tame", "wild"])
@pytest.mark.parametrize(("agreeing", "mean"), list(product([True, False], repeat=2)))
@pytest.mark.parametrize("case", CASES)
def test_one_loop_makes_the_bits_of_many(ways, case, agreeing, mean, wild):
    names, target = CASES[case]
    dtypes = [DTYPES[name] for name in names]
    parts = [numbers(name, seed, wild=wild) for seed, name in enumerate(names)]
    weights = [0.7, 1.0, -0.4][: len(names) - 1]
    cuts = [cut_of(0.1, 2000), EVERYTHING, cut_of(0.05, 90)][: len(names) - 1]
    given = {"scale": 0.9, "agreeing": agreeing, "mean": mean, "start": 1000}
    arrays = [stored(p, d) for p, d in zip(parts, dtypes, strict=True)]
    kind = stored(memoryview(b""), DTYPES[target]).dtype
    right, made = np.empty(COUNT, kind), np.empty(COUNT, kind)
    ways(fast=False)
    assert stored_deltas.merge(arrays, cuts, weights, made, **given) is None
    wrong = by_numpy(parts, dtypes, cuts, weights, out=right, **given)
    ways(fast=True)

    bad = stored_deltas.merge(arrays, cuts, weights, made, **given)

    nan = np.isnan(right.astype(np.float64))
    assert bad == wrong
    assert np.array_equal(np.isnan(made.astype(np.float64)), nan)
    assert made[~nan].tobytes() == right[~nan].tobytes()


def test_what_the_loops_cannot_do_is_left_to_numpy(ways):
    ways(fast=True)
    part, out = stored(numbers("F16", 1), DTYPES["F16"]), np.empty(COUNT, np.float16)
    byte = stored(numbers("F8_E4M3", 2), DTYPES["F8_E4M3"])
    given = {"scale": 1.0, "agreeing": True, "mean": True, "start": 0}
    many = loops.MOST + 1

    def merge(arrays, cut):
        count = len(arrays) - 1
        return stored_deltas.merge(arrays, [cut] * count, [1.0] * count, out, **given)

    assert merge([part, part], EVERYTHING) == 0
    assert merge([part, part], NOTHING) is None
    assert merge([part, byte], EVERYTHING) is None
    assert merge([part] * (many + 1), EVERYTHING) is None


@pytest.mark.parametrize("count", [1, 7, 8, 9, 2047, 2048, 2049, COUNT])
@pytest.mark.parametrize("names", [("F16", "F16"), ("BF16", "F32"), ("F64", "F16")])
def test_sifting_stored_values_equals_sifting_their_keys(names, count):
    base, tuned = (stored(numbers(n, i, wild=True), DTYPES[n])[:count] for i, n in enumerate(names))
    with np.errstate(all="ignore"):
        keys = keys_of(np.abs(tuned.astype(np.float64) - base.astype(np.float64)))
    low, high = (int(keys_of(np.array([size]))[0]) for size in (0.05, 0.2))

    places, found, above = loops.sift(base, tuned, low, high)

    inside = (keys >= low) & (keys <= high)
    assert np.array_equal(places, np.flatnonzero(inside))
    assert np.array_equal(found, keys[inside])
    assert above == np.count_nonzero(keys > high)


@pytest.mark.parametrize("room", [1 << 20, 60, 1], ids=["roomy", "tight", "one"])
@pytest.mark.parametrize("rank", [1, 700, 4990])
def test_a_cut_found_in_stored_values_is_that_of_their_keys(monkeypatch, ways, room, rank):
    monkeypatch.setattr(select, "KEPT", room)
    dtypes = [DTYPES["F16"], DTYPES["F16"], DTYPES["BF16"]]
    parts = [numbers(d.name, i, wild=True) for i, d in enumerate(dtypes)]
    found = []
    for fast in (False, True):
        ways(fast=fast)

        def scan():
            for start in range(0, COUNT, 2000):
                some = [
                    p[start * d.block_bytes : (start + 2000) * d.block_bytes]
                    for p, d in zip(parts, dtypes, strict=True)
                ]
                for at, columns in stored_deltas.sizes(some, dtypes):
                    yield start + at, columns

        with np.errstate(all="ignore"):
            found.append(select.select(scan, [(0, rank), (1, rank)], COUNT))

    assert found[0] == found[1]
