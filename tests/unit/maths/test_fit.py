"""Which weighted sum it is: found among many candidates, without solving for every sum there is."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from memcard.maths import fit


def relatives(count: int, rows: int = 40_000) -> tuple[np.ndarray, list[np.ndarray]]:
    rng = np.random.default_rng(3)
    base = rng.standard_normal(rows) * 0.05
    return base, [base + rng.standard_normal(rows) * 1e-3 for _ in range(count)]


def rounded(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 values as float64, and their rounding steps."""
    unit = fit.rounding_step(values, 24, 2.0**-149)
    return values.astype("f4").astype("f8"), unit


@pytest.mark.parametrize("chosen", [(2, 9), (0, 5, 11)])
def test_a_sum_of_some_of_sixteen_is_found(chosen: tuple[int, ...]) -> None:
    _, columns = relatives(16)
    shares = np.linspace(1, 2, len(chosen))
    shares /= shares.sum()
    target, unit = rounded(sum(w * columns[i] for w, i in zip(shares, chosen, strict=True)))

    first = next(fit.search(target, columns, unit, good=1.5))

    assert first.chosen == chosen
    assert first.weights == pytest.approx(shares, abs=1e-5)
    assert first.error < 0.5


def test_nothing_is_found_where_there_is_no_sum_and_little_is_solved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base, columns = relatives(16)
    target, unit = rounded(base + np.random.default_rng(9).standard_normal(len(base)) * 1e-3)
    calls = []
    solve = fit.solve
    monkeypatch.setattr(fit, "solve", lambda *args: calls.append(1) or solve(*args))

    assert list(fit.search(target, columns, unit, good=1.5)) == []
    assert (
        len(calls) <= 2
    )  # of 16 alone, 120 pairs and 220 triples: all at once, and what is left of them


def test_the_first_look_is_close_to_what_is_solved() -> None:
    _, columns = relatives(4, rows=16_000)
    target, unit = rounded(0.3 * columns[0] + 0.7 * columns[1])
    errors = fit._Errors(target, columns, unit)

    for size in (1, 2, 3):
        for chosen in combinations(range(4), size):
            exact = fit._of(target, columns, unit, chosen).error
            # What is below one step drowns in the inner products; it is solved for anyway. Where a sum
            # is far off, the smallest values count most, of which the hands have unequal shares.
            if exact < 1:
                assert errors.of([chosen])[0] == pytest.approx(exact, abs=0.5)
            else:
                assert exact / 10 < errors.of([chosen])[0] < 1.02 * exact


def test_all_sums_of_a_size_are_looked_at_as_each_by_itself() -> None:
    _, columns = relatives(9, rows=16_000)
    columns[3] = columns[1].copy()  # collinear: one of the two says nothing
    target, unit = rounded(0.3 * columns[0] + 0.5 * columns[1] + 0.2 * columns[2])
    errors = fit._Errors(target, columns, unit)
    sums = list(combinations(range(9), 3))

    together = errors.of(sums)

    single = np.concatenate([errors.of([chosen]) for chosen in sums])
    np.testing.assert_allclose(together, single, rtol=1e-6, atol=0.05)
    right = {(0, 1, 2), (0, 2, 3)}
    assert {s for s, error in zip(sums, together, strict=True) if error < 1.5} == right


def spoiled(values: np.ndarray, count: int, size: float) -> np.ndarray:
    """Return the values with some wrong ones among them."""
    places = np.random.default_rng(4).choice(len(values), count, replace=False)
    values = values.copy()
    values[places] = size
    return values


@pytest.mark.parametrize(("count", "size"), [(1, 1e22), (1, 5.0), (40, 0.3)])
@pytest.mark.parametrize("where", ["target", "parent"])
def test_wrong_values_do_not_spoil_the_weights(count: int, size: float, where: str) -> None:
    _, columns = relatives(6)
    target, unit = rounded(0.3 * columns[1] + 0.7 * columns[4])
    if where == "target":
        target, unit = rounded(spoiled(target, count, size))
    else:
        columns[4] = spoiled(columns[4], count, size)

    first = next(fit.search(target, columns, unit, good=1.5))

    assert first.chosen == (1, 4)
    assert first.weights == pytest.approx((0.3, 0.7), abs=1e-5)
    assert (0.3, 0.7) in fit.typed(first)


def test_what_is_wrong_in_many_places_is_no_mistake() -> None:
    _, columns = relatives(3)
    target, unit = rounded(0.3 * columns[1] + 0.7 * columns[2])
    target = spoiled(target, len(target) // 10, 0.01)

    assert list(fit.search(target, columns, unit, good=1.5)) == []
