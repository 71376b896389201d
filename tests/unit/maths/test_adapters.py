"""What LoRA's relatives compute, against plain formulas in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memcard.maths.adapters import (
    Dense,
    Hadamard,
    Kronecker,
    butterflied,
    decomposed,
    generalised,
    rotated,
    rotations,
    scaled,
    triangle,
    turned_inputs,
)
from memcard.maths.low_rank import LowRank, Window, add_low_rank, dense

ROWS, COLUMNS = 24, 30


def normal(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).standard_normal(shape)


DELTAS = {
    "LoRA": LowRank(normal(ROWS, 4), normal(4, COLUMNS), 0.3),
    "LoHa": Hadamard(
        LowRank(normal(ROWS, 4), normal(4, COLUMNS), 1.0),
        LowRank(normal(ROWS, 3), normal(3, COLUMNS), 1.0),
        0.3,
    ),
    "LoKr": Kronecker(normal(4, 5), normal(6, 6), 0.3),
    "whole": Dense(normal(ROWS, COLUMNS), 0.3),
}
EXPECTED = {
    "LoRA": 0.3 * normal(ROWS, 4) @ normal(4, COLUMNS),
    "LoHa": 0.3 * (normal(ROWS, 4) @ normal(4, COLUMNS)) * (normal(ROWS, 3) @ normal(3, COLUMNS)),
    "LoKr": 0.3 * np.kron(normal(4, 5), normal(6, 6)),
    "whole": 0.3 * normal(ROWS, COLUMNS),
}


@pytest.mark.parametrize("kind", DELTAS)
def test_a_change_is_its_formula(kind):
    made = dense(DELTAS[kind], ROWS, COLUMNS)

    assert np.allclose(made, EXPECTED[kind], rtol=0, atol=1e-13)


@pytest.mark.parametrize("kind", DELTAS)
@given(first=st.integers(0, ROWS - 1), count=st.integers(1, ROWS))
def test_any_range_of_rows_has_the_same_bits(kind, first, count):
    last = min(ROWS, first + count)
    out, term = np.empty((last - first, COLUMNS)), np.empty((last - first, COLUMNS))

    DELTAS[kind].fill(first, last, out, term)

    assert out.tobytes() == dense(DELTAS[kind], ROWS, COLUMNS)[first:last].tobytes()


@given(
    at=st.integers(0, 10),
    first=st.integers(0, 6),
    count=st.integers(1, 14),
    cut=st.integers(1, ROWS * COLUMNS - 1),
)
def test_a_window_changes_its_rows_and_no_others_in_any_chunks(at, first, count, cut):
    weight, window = normal(ROWS * COLUMNS, seed=1), Window(DELTAS["LoRA"], at, count, first)
    out = np.empty_like(weight)

    add_low_rank(weight[:cut], [window], out[:cut], COLUMNS, 0)
    add_low_rank(weight[cut:], [window], out[cut:], COLUMNS, cut)

    expected = weight.reshape(ROWS, COLUMNS).copy()
    expected[at : at + count] += dense(DELTAS["LoRA"], ROWS, COLUMNS)[first : first + count]
    assert out.tobytes() == expected.tobytes()


@pytest.mark.parametrize(("on_input", "shape"), [(True, (1, 5, 1)), (False, (4, 1, 1))])
def test_ia3_scales_inputs_or_outputs(on_input, shape):
    weight, factors = normal(4, 5, 9), normal(5 if on_input else 4)

    made = scaled(weight, factors, 0.5, on_input=on_input)

    assert np.allclose(made, weight * (1 + 0.5 * factors.reshape(shape)), atol=1e-14)


def test_glora_acts_on_the_inputs_and_adds():
    weight, change = normal(4, 5, 9), normal(4, 5, 9, seed=1)
    a1, a2 = normal(5, 2), normal(2, 5)

    made = generalised(weight, change, a1, a2, 0.5)

    inward = np.einsum("oik,ij,jl->olk", weight, a1, a2)
    assert np.allclose(made, weight + 0.5 * (inward + change), atol=1e-13)


def test_rotations_are_orthogonal_and_limited():
    free, held = rotations(normal(3, 4, 4), 0.0), rotations(normal(3, 4, 4), 1e-3)

    for turns in (free, held):
        assert np.allclose(turns @ np.swapaxes(turns, 1, 2), np.eye(4), atol=1e-12)
    assert np.abs(held - np.eye(4)).max() < 1e-2 < np.abs(free - np.eye(4)).max()


def test_oft_turns_blocks_of_outputs_and_keeps_their_length():
    weight, turns = normal(12, 5, 9), rotations(normal(3, 4, 4), 0.0)

    made = rotated(weight, turns, None, 1.0)

    expected = np.einsum("knm,kni->kmi", turns, weight.reshape(3, 4, -1)).reshape(12, 5, 9)
    assert np.allclose(made, expected, atol=1e-13)
    assert np.isclose(np.linalg.norm(made), np.linalg.norm(weight))


def test_boft_with_one_stage_of_pairs_turns_neighbours():
    weight, turns = normal(4, 3, 1), rotations(normal(1, 2, 2, 2), 0.0)

    made = butterflied(weight, turns, None, 1.0)

    expected = np.einsum("bij,bjk->bik", turns[0], weight.reshape(2, 2, 3)).reshape(4, 3, 1)
    assert np.allclose(made, expected, atol=1e-14)


def test_boft_keeps_lengths_over_all_stages():
    weight, turns = normal(16, 3, 1), rotations(normal(3, 4, 4, 4), 0.0)

    made = butterflied(weight, turns, None, 1.0)

    assert np.isclose(np.linalg.norm(made), np.linalg.norm(weight))
    assert not np.allclose(made, weight)


@pytest.mark.parametrize("on_input", [True, False])
def test_dora_has_the_magnitudes_it_is_given(on_input):
    weight, change = normal(4, 5, 9), normal(4, 5, 9, seed=1)
    magnitude = np.abs(normal(5 if on_input else 4)) + 0.5

    made = decomposed(weight, change, magnitude, 1.0, on_input=on_input)

    lengths = torch.tensor(made).norm(dim=(0, 2) if on_input else (1, 2)).numpy()
    assert np.allclose(lengths, magnitude)


def test_dora_at_half_strength_lies_half_way():
    weight, change, magnitude = normal(4, 5, 1), normal(4, 5, 1, seed=1), np.arange(1.0, 5.0)
    full = decomposed(weight, change, magnitude, 1.0, on_input=False)

    half = decomposed(weight, change, magnitude, 0.5, on_input=False)

    assert np.allclose(half, (weight + full) / 2)


@pytest.mark.parametrize("kind", ["ia3", "glora", "oft", "boft", "dora"])
def test_strength_zero_gives_the_weight_back(kind):
    weight, rescale = normal(8, 6, 1), np.full(8, 3.0)
    turns = rotations(normal(2, 4, 4), 0.0)
    made = {
        "ia3": lambda: scaled(weight, rescale, 0.0, on_input=False),
        "glora": lambda: generalised(weight, weight, normal(6, 2), normal(2, 6), 0.0),
        "oft": lambda: rotated(weight, turns, rescale, 0.0),
        "boft": lambda: butterflied(weight, turns[None], rescale, 0.0),
        "dora": lambda: decomposed(weight, weight, rescale, 0.0, on_input=False),
    }[kind]()

    assert np.array_equal(made, weight)


def test_a_row_of_zeros_stays_one_under_dora():
    weight = np.zeros((2, 3, 1))

    assert np.array_equal(decomposed(weight, weight, np.ones(2), 1.0, on_input=False), weight)


@given(st.integers(min_value=2, max_value=3000))
def test_the_side_of_a_triangle_is_found_and_nothing_between(size):
    count = size * (size - 1) // 2

    assert triangle(count) == size
    assert triangle(count + 1) == 0
    assert triangle(0) == 0


@pytest.mark.parametrize("shared", [False, True])
def test_turned_inputs_keep_the_length_of_each_row(shared):
    weight, above = normal(6, 4, 3), 0.1 * normal(1 if shared else 3, 6)

    made = turned_inputs(weight, above, 0, 1.0)

    assert np.allclose(np.linalg.norm(made, axis=(1, 2)), np.linalg.norm(weight, axis=(1, 2)))
    assert not np.allclose(made, weight, atol=1e-3)
    assert np.array_equal(turned_inputs(weight, above, 0, 0.0), weight)


def test_a_long_series_turns_as_far_as_the_rotation_the_other_way():
    weight, above = normal(6, 12), 0.05 * normal(3, 6)

    exact = turned_inputs(weight[:, :, None], above, 0, 1.0)
    series = turned_inputs(weight[:, :, None], -above, 40, 1.0)

    assert np.allclose(series, exact, atol=1e-9)
