"""``density``, ``gamma`` and ``epsilon``: one number for all fine-tunes, or one for each."""

import numpy as np
import pytest

from fixtures.methods import run, run_on
from memcard.errors import UsageError
from memcard.ops import OPS
from memcard.recipes.nodes import Params
from memcard.recipes.op import complete

RNG = np.random.default_rng(8)
# Whole numbers, so that base + change - base is the change again.
BASE = RNG.integers(-99, 99, (30, 20)).astype("f8")
TUNED = [BASE + RNG.integers(-40, 40, BASE.shape) for _ in range(3)]


def alone(tmp_path, method, number, **params):
    """What a fine-tune keeps of its change when it is merged by itself."""
    made = run_on(tmp_path, method, BASE, TUNED[number], normalize=False, **params)
    return made - BASE


@pytest.mark.parametrize(
    ("method", "lists"),
    [
        ("ties", {"density": [0.2, 0.5, 1.0]}),
        ("breadcrumbs", {"density": [0.3, 0.5, 0.9], "gamma": [0.0, 0.2, 0.05]}),
        ("breadcrumbs", {"density": 0.4, "gamma": [0.3, 0.2, 0.0]}),
    ],
)
def test_each_change_is_trimmed_by_its_own_number(tmp_path, method, lists):
    made = run_on(tmp_path, method, BASE, *TUNED, normalize=False, elect=False, **lists) if (
        method == "breadcrumbs"
    ) else run_on(tmp_path, method, BASE, *TUNED, normalize=False, **lists)  # fmt: skip

    parts = [
        alone(tmp_path, method, i, **{k: v[i] if isinstance(v, list) else v for k, v in lists.items()})
        for i in range(3)
    ]  # fmt: skip
    if method == "ties":
        sign = np.where(sum(parts) >= 0, 1, -1)
        parts = [np.where(p * sign > 0, p, 0) for p in parts]
    assert np.array_equal(made, BASE + sum(parts))
    assert not np.array_equal(parts[0], parts[1])


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties", "della"])
def test_random_methods_keep_as_many_of_each_as_its_density_says(tmp_path, method):
    base = np.zeros(60_000)
    tuned = [base + 1, base + 1]
    given = {"density": [0.2, 0.7], "rescale": False, "normalize": False}
    given |= {"epsilon": [0.0, 0.1]} if method == "della" else {}
    one, two = (
        run_on(tmp_path, method, base, *tuned, weights=w, **given) for w in ([1, 0], [0, 1])
    )

    assert abs(one.mean() - 0.2) < 0.01
    assert abs(two.mean() - 0.7) < 0.01


@pytest.mark.parametrize("method", ["ties", "dare_linear", "dare_ties", "della", "breadcrumbs"])
def test_a_list_of_equal_numbers_is_that_number(tmp_path, method):
    one = run_on(tmp_path, method, BASE, *TUNED, density=0.6)
    same = run_on(tmp_path, method, BASE, *TUNED, density=[0.6, 0.6, 0.6])

    assert np.array_equal(one, same)


def test_a_fine_tune_without_weight_takes_its_number_with_it(tmp_path):
    all_three = run_on(tmp_path, "ties", BASE, *TUNED, density=[0.2, 0.9, 0.5], weights=[1, 0, 1])
    two = run_on(tmp_path, "ties", BASE, TUNED[0], TUNED[2], density=[0.2, 0.5])

    assert np.array_equal(all_three, two)


def test_one_number_too_few_or_out_of_range_is_refused(tmp_path):
    files = [{"w": x} for x in (BASE, *TUNED)]

    with pytest.raises(UsageError, match="density: 2 given for 3 fine-tunes"):
        run(tmp_path, "ties", *files, density=[0.1, 0.2])
    with pytest.raises(UsageError, match=r"density: 1 given for 3 .* gamma: 4 given for 3"):
        run(tmp_path, "breadcrumbs", *files, density=[0.1], gamma=[0.1, 0.2, 0.3, 0.4])
    for wrong in ([0.1, 1.5, 0.2], [], [None, 0.1, 0.1], [True, 0.1, 0.1], "0.1"):
        with pytest.raises(UsageError, match="a number, or one for each fine-tune, from 0 to 1"):
            run(tmp_path, "ties", *files, density=wrong)
    with pytest.raises(UsageError, match=r"density 0\.9 and epsilon 0\.2"):
        run(tmp_path, "della", *files, density=[0.5, 0.9, 0.5], epsilon=0.2)


def test_one_number_stays_one_in_a_recipe():
    assert complete("ties", OPS["ties"], Params({"density": 1}))["density"] == 1.0
    assert complete("ties", OPS["ties"], Params())["density"] == 0.2
    assert complete("ties", OPS["ties"], Params({"density": [1, 0.5]}))["density"] == (1.0, 0.5)
