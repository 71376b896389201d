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
            # What is below one step drowns in the inner products; it is solved for anyway.
            assert errors.of(chosen) == pytest.approx(exact, rel=0.02, abs=0.5)
