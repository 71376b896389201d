"""nearswap, ram, train_difference, geometric, clamp: value by value against their formulas."""

import numpy as np
import pytest
import torch
from sd_mecha.extensions.builtin.merge_methods import limiting, linear

from fixtures import small
from fixtures.methods import run, run_on, vectors
from memcard.errors import UsageError

SHAPE = (4, 3, 5)


def test_nearswap_moves_by_at_most_t(tmp_path):
    base, other = vectors(1, 2, *SHAPE)

    made = run_on(tmp_path, "nearswap", base, other, t=0.2)

    assert np.allclose(made, base + np.clip(other - base, -0.2, 0.2))
    close = np.abs(other - base) <= 0.2
    assert np.array_equal(made[close], other[close])
    assert close.any()


def test_nearswap_below_a_millionth_moves_in_part(tmp_path):
    made = run_on(tmp_path, "nearswap", [0.0, 1.0], [5e-7, 1.0], t=1e-7)

    assert np.allclose(made, [5e-8, 1.0], rtol=1e-12)


def test_nearswap_of_an_infinity_keeps_the_base(tmp_path):
    assert run_on(tmp_path, "nearswap", [1.0, 2.0], [np.inf, 2.5], t=0.1).tolist() == [1, 2.1]


def test_ram_adds_what_is_unique_and_averages_what_is_shared(tmp_path):
    base = np.array([1.0, 1.0, 1.0, 1.0])
    one = base + np.array([0.5, 0.0, 0.5, 1e-6])
    two = base + np.array([0.0, 0.3, 0.1, 0.0])

    made = run_on(tmp_path, "ram", base, one, two)

    assert np.allclose(made, [1.5, 1.3, 1.3, 1.0], rtol=1e-12)


def test_ram_plus_raises_unique_changes_by_the_share_of_common_ones(tmp_path):
    base = np.zeros(6)
    one = np.array([1.0, 1.0, 1.0, 1.0, 0.0, 0.0])  # alone: 3, shared: 1
    two = np.array([0.0, 0.0, 0.0, 3.0, 1.0, 0.0])  # alone: 1, shared: 1

    made = run_on(tmp_path, "ram", base, one, two, r=0.6, alpha=0.5)

    assert np.allclose(made, [1.2, 1.2, 1.2, 2.0, 1.3, 0.0])


def test_ram_shows_a_nan(tmp_path):
    made = run_on(tmp_path, "ram", [0.0, 0.0], [np.nan, 1.0], [1.0, 0.0])

    assert np.isnan(made[0])
    assert made[1] == 1


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_train_difference_equals_sd_mechas(tmp_path, alpha):
    c, a, b = vectors(2, 3, *SHAPE)
    a[0], c[0] = b[0], b[0]  # nothing learned, nothing to add: 0, not 0/0

    made = run_on(tmp_path, "train_difference", c, a, b, alpha=alpha)

    ta, tb, tc = (torch.tensor(x) for x in (a, b, c))
    mask = linear.train_difference_mask.__wrapped__(ta, tb, tc, alpha)
    assert np.allclose(made, (ta + mask * (tb - tc)).numpy(), rtol=1e-12)


def test_train_difference_keeps_counters_of_a(tmp_path):
    inputs = [{"w": np.ones(2, "f4"), "step": np.array(i)} for i in range(3)]

    result = run(tmp_path, "train_difference", *inputs)

    assert small.array_of(result, "step") == 1
    assert "taken from the second input" in result.notes[0]


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_geometric_equals_sd_mechas(tmp_path, alpha):
    a, b = vectors(3, 2, *SHAPE)
    a[0], b[1] = -a[0], -b[1]

    made = run_on(tmp_path, "geometric", a, b, alpha=alpha)

    theirs = linear.geometric_sum.__wrapped__(
        torch.tensor(a), torch.tensor(b), torch.tensor(alpha, dtype=torch.float64)
    )
    assert np.allclose(made, theirs.numpy(), rtol=1e-9, atol=1e-15)


def test_geometric_of_zero_is_zero(tmp_path):
    assert run_on(tmp_path, "geometric", [0.0, -4.0], [3.0, -9.0]).tolist() == [0, -6]


@pytest.mark.parametrize("stiffness", [0.0, 0.4, 1.0])
def test_clamp_equals_sd_mechas(tmp_path, stiffness):
    a, *bounds = vectors(4, 4, *SHAPE)

    made = run_on(tmp_path, "clamp", a, *bounds, stiffness=stiffness)

    theirs = limiting.clamp.__wrapped__(
        torch.tensor(a), *map(torch.tensor, bounds), stiffness=stiffness
    )
    assert np.allclose(made, theirs.numpy(), rtol=1e-12)


def test_clamp_leaves_what_lies_within(tmp_path):
    inside = run_on(tmp_path, "clamp", [0.5, 3.0, -3.0], [0.0, 1.0, 1.0], [1.0, 2.0, 2.0])

    assert inside.tolist() == [0.5, 2.0, 1.0]


@pytest.mark.parametrize("method", ["nearswap", "train_difference", "geometric"])
def test_rounds_once_from_float64(tmp_path, method):
    count = 3 if method == "train_difference" else 2
    inputs = [small.weights(i) for i in range(count)]
    wide = [{n: x.astype("f8") for n, x in arrays.items()} for arrays in inputs]
    (tmp_path / "wide").mkdir()

    narrow, exact = run(tmp_path, method, *inputs), run(tmp_path / "wide", method, *wide)

    for name in inputs[0]:
        expected = small.array_of(exact, name).astype("f2")
        assert np.array_equal(small.array_of(narrow, name), expected)


@pytest.mark.parametrize(
    ("method", "count", "params", "says"),
    [
        ("clamp", 2, {}, "takes 3 or more inputs"),
        ("clamp", 3, {"stiffness": 2}, "from 0 to 1"),
        ("nearswap", 2, {"t": -1}, "at least 0"),
        ("geometric", 2, {"alpha": 1.1}, "from 0 to 1"),
        ("ram", 2, {"epsilon": -1}, "at least 0"),
        ("train_difference", 2, {}, "takes 3 inputs"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path, method, count, params, says):
    with pytest.raises(UsageError, match=says):
        run(tmp_path, method, *(small.weights(i) for i in range(count)), **params)
