"""The compiled product against the same sequence of operations in numpy: not one bit may differ."""

from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_dtypes import bfloat16, float8_e4m3fn

from fixtures.long import mostly_slow
from memcard.maths import _lora_kernels as loops
from memcard.maths import low_rank
from memcard.maths.adapters import Dense
from memcard.maths.low_rank import SPARE, LowRank, Window, add_low_rank

DTYPES = {"F16": np.float16, "BF16": bfloat16, "F32": np.float32, "F64": np.float64}
# What other processors have: rows, vectors, values in a vector, one instruction for both.
SHAPES = [(8, 3, 8, True), (8, 3, 8, False), (4, 3, 4, True), (4, 3, 2, False), (8, 3, 2, True)]


@contextmanager
def numpy_alone():
    before, low_rank._compiled = low_rank._compiled, lambda *_: False
    try:
        yield
    finally:
        low_rank._compiled = before


@contextmanager
def always_compiled(shape=None):
    """Use the loops however little there is to do; those of another processor, if one is given."""
    before = low_rank.compiled, loops.registers
    low_rank.compiled = lambda _: loops
    if shape is not None:
        loops.registers = lambda: loops.Registers(*shape)
        loops._made.cache_clear()
    try:
        yield
    finally:
        low_rank.compiled, loops.registers = before
        if shape is not None:
            loops._made.cache_clear()


def product(rng, rows, columns, rank, dtype, scale=0.3, spread=0.2):
    up, down = (
        (rng.standard_normal(size) * spread).astype(DTYPES[dtype]).astype("f8")
        for size in ((rows, rank), (rank, columns))
    )
    return LowRank(up, down, scale, (dtype, dtype))


def add(weight, deltas, columns, start=0):
    out = np.empty_like(weight)
    bad = add_low_rank(weight, deltas, out, columns, start)
    return out, bad


def weights(rng, size, dtype):
    return rng.standard_normal(size).astype(DTYPES[dtype])


# Each is compiled: by default each dtype and each processor once each way, all with the slow tests.
ALL = [(into, of, shape) for into in DTYPES for of in DTYPES for shape in SHAPES]
SOME = [
    (into, of, SHAPES[(i + 2 * k) % 5])
    for i, into in enumerate(DTYPES)
    for k, of in enumerate(DTYPES)
]


@pytest.mark.parametrize("case", mostly_slow(ALL, *SOME), ids=str)
def test_the_bits_are_those_of_numpy_on_every_processor(case):
    into, of, shape = case
    rng = np.random.default_rng(1)
    rows, columns = 21, 413
    weight = weights(rng, rows * columns, into)
    deltas = [product(rng, rows, columns, rank, of) for rank in (5, 32)]

    with always_compiled(shape):
        made, bad = add(weight, deltas, columns)
    with numpy_alone():
        expected, _ = add(weight, deltas, columns)

    assert made.tobytes() == expected.tobytes()
    assert bad == 0


@given(
    st.tuples(st.integers(1, 40), st.integers(1, 450), st.integers(1, 9)),
    st.lists(st.floats(0, 1), max_size=5),
    st.sampled_from(["F16", "F32"]),
    st.integers(0, 99),
)
def test_any_shape_in_any_chunks_is_the_same(shape, cuts, dtype, seed):
    rows, columns, rank = shape
    rng = np.random.default_rng(seed)
    weight = weights(rng, rows * columns, "F16")
    window = rng.integers(0, rows)
    deltas = [
        product(rng, rows, columns, rank, dtype),
        Window(product(rng, rows + 3, columns, 2, dtype), int(window), int(rows - window), 3),
    ]
    edges = [0, *sorted(int(cut * weight.size) for cut in cuts), weight.size]

    with always_compiled():
        pieces = [add(weight[a:b], deltas, columns, a)[0] for a, b in pairwise(edges)]
    with numpy_alone():
        expected, _ = add(weight, deltas, columns)

    assert np.concatenate(pieces).tobytes() == expected.tobytes()


def test_rows_outside_every_window_stay_as_they_are():
    rng = np.random.default_rng(2)
    weight = weights(rng, 30 * 50, "F16")

    with always_compiled():
        made, _ = add(weight, [Window(product(rng, 10, 50, 3, "F16"), 8, 10)], 50)

    same = (made == weight).reshape(30, 50).all(axis=1)
    assert same[:8].all()
    assert same[18:].all()
    assert not same[8:18].any()


@pytest.mark.parametrize("into", DTYPES)
def test_what_is_not_finite_is_counted(into):
    rng = np.random.default_rng(3)
    weight = weights(rng, 9 * 40, into)
    weight[[0, 41, 359]] = np.nan, np.inf, -np.inf
    deltas = [product(rng, 9, 40, 2, "F16")]

    with always_compiled():
        made, bad = add(weight, deltas, 40)

    assert bad == 3
    assert np.flatnonzero(~np.isfinite(made)).tolist() == [0, 41, 359]


def test_results_too_large_for_the_dtype_are_counted():
    big = LowRank(np.full((4, 1), 300.0), np.full((1, 30), 300.0), 1.0, ("F16", "F16"))

    with always_compiled():
        made, bad = add(np.zeros(120, "f2"), [big], 30)

    assert bad == 120
    assert np.isinf(made).all()


def test_factors_of_full_precision_are_multiplied_and_added_apart():
    rng = np.random.default_rng(4)
    delta = product(rng, 16, 48, 7, "F64")
    weight = np.zeros(16 * 48)

    with always_compiled():
        apart, _ = add(weight, [delta], 48)
        fused, _ = add(weight, [LowRank(delta.up, delta.down, 0.3, ("F32", "F32"))], 48)
    with numpy_alone():
        expected, _ = add(weight, [delta], 48)

    assert not delta.multiplies_exactly
    assert apart.tobytes() == expected.tobytes()
    if loops.registers().fused:  # so the choice matters
        assert fused.tobytes() != expected.tobytes()


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32"])
def test_short_factors_have_products_without_rounding(dtype):
    assert product(np.random.default_rng(5), 2, 2, 1, dtype).multiplies_exactly


def test_what_the_loops_do_not_know_goes_to_numpy():
    rng = np.random.default_rng(6)
    delta, weight = product(rng, 4, 30, 2, "F16"), np.ones(120, float8_e4m3fn)

    with always_compiled():
        made, _ = add(weight, [delta], 30)
        mixed, _ = add(np.ones(120), [delta, Dense(np.ones((4, 30)), 2.0)], 30)

    assert made.tobytes() == add(weight, [delta], 30)[0].tobytes()
    assert np.allclose(mixed.reshape(4, 30), 3 + 0.3 * delta.up @ delta.down)


def test_nothing_is_read_beyond_what_may_be():
    down = np.arange(12.0).reshape(3, 4)
    roomy = np.zeros(12 + SPARE)[:12].reshape(3, 4)

    copied = low_rank._followed(down, 0)

    assert low_rank._followed(roomy, 0) is roomy
    assert copied is not down
    assert copied.tobytes() == down.tobytes()
    assert copied.base.size >= 12 + SPARE
    assert low_rank._followed(np.zeros(11 + SPARE)[:12].reshape(3, 4), 0).base.size >= 12 + SPARE


@given(st.integers(1, 30), st.integers(0, 300), st.integers(1, 300), st.integers(0, 9))
def test_rectangles_cover_a_run_once(columns, start, size, edge):
    window = Window(LowRank(np.ones((1, 1)), np.ones((1, 1)), 1.0), edge, 3)

    found = [
        row * columns + first + line * columns + column
        for row, rows, first, width in low_rank._rectangles(start, start + size, columns, [window])
        for line in range(rows)
        for column in range(width)
    ]

    assert found == list(range(start, start + size))


def test_no_rectangle_crosses_the_edge_of_a_window():
    window = Window(LowRank(np.ones((1, 1)), np.ones((1, 1)), 1.0), 5, 3)

    found = list(low_rank._rectangles(3, 100, 10, [window]))

    assert [(row, row + rows) for row, rows, *_ in found] == [(0, 1), (1, 5), (5, 8), (8, 10)]
