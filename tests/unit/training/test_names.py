"""The names a training script imports."""

from __future__ import annotations

import pytest

import memcard
from memcard import training


@pytest.mark.parametrize("name", ["EMA", "ExactSampler", "Keep", "exact"])
def test_both_places_give_the_same_object(name: str) -> None:
    assert getattr(training, name) is getattr(memcard, name)


def test_every_name_that_is_listed_is_there() -> None:
    assert all(getattr(training, name) for name in dir(training))


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'load'"):
        training.load  # noqa: B018
