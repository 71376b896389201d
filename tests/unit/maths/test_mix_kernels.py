"""Compiled weighted sums: the bits of numpy, whatever the dtypes."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
from ml_dtypes import bfloat16

from fixtures.long import mostly_slow
from memcard.maths import _mix_kernels as loops
from memcard.maths import _stored_text as texts
from memcard.maths import floats
from memcard.maths.rounding import BLOCK

DTYPES = [np.dtype(np.float16), np.dtype(bfloat16), np.dtype(np.float32), np.dtype(np.float64)]
COUNT = (1 << 16) + 5


@pytest.fixture(params=["processor", "numbers"])
def ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Convert halves by the processor's instructions, and by whole numbers."""
    loops._made.cache_clear()
    if request.param == "numbers":
        monkeypatch.setattr(loops, "helpers", texts.exact_helpers)
    yield
    loops._made.cache_clear()


def values(dtype: Any, seed: int) -> Any:
    """Return every code of a 16-bit dtype, or numbers of all sizes with NaN, infinities and zeros."""
    rng = np.random.default_rng(seed)
    if dtype.itemsize == 2:
        codes = np.arange(COUNT, dtype=np.uint32).astype(np.uint16)
        return rng.permutation(codes).view(dtype)
    wide = rng.standard_normal(COUNT) * 10.0 ** rng.integers(-46, 39, COUNT)
    wide[:4] = np.nan, np.inf, -np.inf, -0.0
    with np.errstate(over="ignore"):
        return wide.astype(dtype)


def codes(array: Any) -> Any:
    return array.view(f"u{array.dtype.itemsize}")


@pytest.mark.usefixtures("ways")
@pytest.mark.parametrize(("kind", "out_kind"), list(product(DTYPES, DTYPES)), ids=str)
@pytest.mark.parametrize(
    "weights", mostly_slow([(0.7, 0.3), (1.0, -1.0), (1e-3, 40.0)], (0.7, 0.3)), ids=str
)
def test_the_bits_are_those_of_numpy(kind: Any, out_kind: Any, weights: Any) -> None:
    parts = [values(kind, 1), values(kind, 2)]
    with np.errstate(invalid="ignore"):
        parts[1][np.isnan(parts[1])] = 1  # which of two NaNs remains is the processor's choice
    right, found = np.empty(COUNT, out_kind), np.empty(COUNT, out_kind)

    wild = floats._by_numpy(parts, weights, right)

    assert loops.mix(parts, weights, found) == wild
    different = np.flatnonzero(codes(right) != codes(found))
    assert [(right[i], found[i]) for i in different[:5]] == []


def test_inputs_of_several_dtypes_are_added_from_left_to_right() -> None:
    parts = [np.full(9, 1e16, "f8"), np.full(9, 1, "f2"), np.full(9, -1e16, "f4")]
    out = np.empty(9, "f8")

    loops.mix(parts, (1, 1, 1), out)

    assert out.tolist() == [(1e16 + 1) + float(np.float32(-1e16))] * 9


def test_more_inputs_than_one_loop_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    rng, count = np.random.default_rng(5), BLOCK + 77
    parts = [rng.standard_normal(count).astype("f2") for _ in range(2 * loops.MOST + 3)]
    parts[-1][5] = np.inf
    weights = rng.standard_normal(len(parts)).tolist()
    right, found = np.empty(count, "f2"), np.empty(count, "f2")

    wild = floats._by_numpy(parts, weights, right)

    assert floats._by_loops(parts, weights, found) == wild == 1
    assert codes(right).tolist() == codes(found).tolist()


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_widening_keeps_every_code_of_16_bits(dtype: Any) -> None:
    narrow = np.arange(1 << 16, dtype=np.uint16).view(dtype)
    single = (narrow.view("u2").astype("u4") << 16).view("f4") if dtype == bfloat16 else narrow
    wide = np.empty(narrow.size)

    loops.widen(narrow, wide)

    with np.errstate(invalid="ignore"):
        assert codes(wide).tolist() == codes(single.astype("f8")).tolist()


def test_values_that_are_not_aligned_and_no_values_at_all() -> None:
    raw = np.frombuffer(b"x" + np.arange(100, dtype="f2").tobytes(), np.uint8)[1:].view("f2")
    out = np.empty(100, "f4")

    assert loops.mix([raw], (2.0,), out) == 0
    assert out.tolist() == [2.0 * i for i in range(100)]
    assert loops.mix([raw[:0]], (2.0,), out[:0]) == 0


def test_there_are_loops_for_some_dtypes_only() -> None:
    assert loops.knows([np.empty(1, "f2"), np.empty(1, "f4"), np.empty(1, bfloat16)])
    assert not loops.knows([np.empty(1, "f2"), np.empty(1, "i4")])
