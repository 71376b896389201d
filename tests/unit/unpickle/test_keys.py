from __future__ import annotations

from sys import hash_info
from typing import Any

import pytest

from memcard.core.limits import Limits
from memcard.unpickle.keys import Keys
from memcard.unpickle.nodes import BadCallError, Global, Opaque

LAWFUL: list[Any] = [
    *("text", b"bytes", 1, -1, 2.5, True, None, 1 << 70, Global("m", "C"), Opaque("x")),
    *((), (1, "a"), (1, (2, ("x", (3,)))), tuple(range(64))),
]


@pytest.mark.parametrize("key", LAWFUL)
def test_scalars_and_short_tuples_are_keys(key: Any) -> None:
    assert Keys(Limits()).check(key) is key


def doubled(rounds: int) -> tuple[Any, ...]:
    key: tuple[Any, ...] = ()
    for _ in range(rounds):
        key = (key, key)
    return key


@pytest.mark.parametrize("key", [[], {}, ([],), tuple(range(65)), doubled(6), doubled(60)])
def test_everything_else_is_not(key: Any) -> None:
    with pytest.raises(BadCallError, match="dict key that is not"):
        Keys(Limits()).check(key)


@pytest.mark.parametrize(
    "make", [lambda i: i * hash_info.modulus, lambda i: (i, -i)], ids=["numbers", "tuples"]
)
def test_keys_whose_hash_can_be_chosen_are_counted(make: Any) -> None:
    keys = Keys(Limits(dict_keys=3))
    for i in range(1, 4):
        keys.check(make(i))

    with pytest.raises(BadCallError, match="more tuples or huge numbers"):
        keys.check(make(4))


def test_small_numbers_are_not_counted() -> None:
    keys = Keys(Limits(dict_keys=0))

    assert [keys.check(i) for i in range(-100, 100)] == list(range(-100, 100))
