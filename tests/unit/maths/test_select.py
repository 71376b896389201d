"""Exact selection: what ranks before a cut equals a full sort's answer, however it was found."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memcard.maths import select
from memcard.maths.select import EVERYTHING, NOTHING, before, keys_of


def scan_of(columns, block):
    def scan():
        for start in range(0, len(columns[0]), block):
            yield start, [c[start : start + block] for c in columns]

    return scan


def sorted_answer(keys, rank):
    order = np.lexsort((np.arange(len(keys)), -keys))
    kept = np.zeros(len(keys), bool)
    kept[order[:rank]] = True
    return kept


def check(values, rank, *, block=1000, sample=None):
    keys = keys_of(np.abs(values))
    hint = [keys[::16].copy()] if sample is None else sample
    (cut,) = select.select(scan_of([keys], block), [(0, rank)], len(keys), hint)
    parts = [before(keys[i : i + 777], i, cut) for i in range(0, len(keys), 777)]
    assert np.array_equal(np.concatenate(parts), sorted_answer(keys, rank))


RNG = np.random.default_rng(5)
VALUES = {
    "normal": RNG.standard_normal(5000),
    "many ties": np.round(RNG.standard_normal(5000) * 2) / 2,
    "all zero": np.zeros(3000),
    "wild": np.r_[np.zeros(2000), np.inf, -np.inf, np.nan, RNG.standard_normal(500)],
    "sorted, so a sample of rows deceives": np.sort(RNG.standard_normal(3000) ** 7),
    "subnormal": RNG.standard_normal(3000) * 5e-324 * 9,
}


@pytest.mark.parametrize("kept", [1 << 20, 50, 1], ids=["roomy", "tight", "one"])
@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("share", [0, 0.0004, 0.2, 0.9, 0.9999, 1])
def test_exactly_the_largest_are_kept_with_any_memory(monkeypatch, name, share, kept):
    monkeypatch.setattr(select, "KEPT", kept)
    monkeypatch.setattr(select, "SMALL", 100)

    check(VALUES[name], round(share * len(VALUES[name])))


def test_a_sample_that_lies_costs_time_and_nothing_else(monkeypatch):
    monkeypatch.setattr(select, "SMALL", 100)
    lies = keys_of(np.full(500, 1e300)), keys_of(np.full(500, 1e-300))

    for lie in lies:
        check(VALUES["normal"], 700, sample=[lie])


@given(
    st.lists(st.floats(width=16), min_size=1, max_size=60),
    st.integers(0, 60),
    st.integers(1, 9),
    st.sampled_from([1, 3, 1 << 20]),
)
def test_any_values_any_rank_any_blocks(values, rank, block, kept):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(select, "KEPT", kept)
        patch.setattr(select, "SMALL", 0)
        check(np.array(values, np.float64), min(rank, len(values)), block=block)


def test_equal_values_rank_by_index():
    keys = keys_of(np.array([1.0, 2.0, 1.0, 1.0]))

    (cut,) = select.select(scan_of([keys], 4), [(0, 3)], 4)

    assert before(keys, 0, cut).tolist() == [True, True, True, False]


def test_columns_and_ranks_are_found_together():
    columns = [keys_of(np.abs(VALUES[n][:3000])) for n in ("normal", "many ties")]
    ranks = [(0, 10), (1, 0), (1, 900), (0, 3000)]

    cuts = select.select(scan_of(columns, 512), ranks, 3000)

    assert (cuts[1], cuts[3]) == (NOTHING, EVERYTHING)
    for (column, rank), cut in zip(ranks, cuts, strict=True):
        assert np.count_nonzero(before(columns[column], 0, cut)) == rank


def test_a_good_sample_makes_it_one_pass(monkeypatch):
    passes = []
    keys = keys_of(np.abs(RNG.standard_normal(200_000)))

    def scan():
        passes.append(1)
        yield from scan_of([keys], 4096)()

    (cut,) = select.select(scan, [(0, 40_000)], len(keys), [keys[::16].copy()])

    assert len(passes) == 1
    assert np.count_nonzero(before(keys, 0, cut)) == 40_000


SIGNED = {
    "both signs": RNG.standard_normal(4001),
    "many ties": np.round(RNG.standard_normal(4001)),
    "mostly zero": np.r_[np.zeros(3000), -1e-17, 5.0, RNG.standard_normal(900)],
    "wild": np.r_[np.nan, -np.nan, np.inf, -np.inf, -0.0, 0.0, RNG.standard_normal(200)],
    "one": np.array([-2.5]),
}


@pytest.mark.parametrize("kept", [1 << 20, 40], ids=["roomy", "tight"])
@pytest.mark.parametrize("name", SIGNED)
def test_values_at_places_are_those_of_a_sorted_copy(monkeypatch, name, kept):
    monkeypatch.setattr(select, "KEPT", kept)
    monkeypatch.setattr(select, "SMALL", 100)
    values = SIGNED[name]
    places = [int(q * (len(values) - 1)) for q in (0, 0.25, 0.5, 0.75, 1)]

    def scan():
        for start in range(0, len(values), 300):
            yield values[start : start + 300].copy()

    found = select.ascending(scan, places, len(values), values[::16].copy())

    assert np.array_equal(found, np.sort(values)[places], equal_nan=True)


def test_searches_share_the_room_and_the_sample_is_bounded():
    assert [select.share_of_room(n) for n in (0, 1, 4)] == [1 << 20, 1 << 20, 1 << 18]
    assert select.sample_size(1 << 16, 1) == 0
    assert select.sample_size(1 << 20, 2) == 1 << 15
    assert select.sample_size(1 << 33, 2) == select.share_of_room(2)
