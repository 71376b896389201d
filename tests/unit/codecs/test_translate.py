"""The little language of the loops computes what it says, and refuses what it does not know."""

import ctypes

import numpy as np
import pytest

from memcard.codecs._translate import arguments, translate
from memcard.core.compiled import address, assemble


def compiled(text: str, types=None, **constants):
    engine = assemble(translate(text, types, constants))
    (name, count), *_ = arguments(text).items()
    call = ctypes.CFUNCTYPE(ctypes.c_uint64, *[ctypes.c_uint64] * count)
    function = call(engine.get_function_address(name))
    function.engine = engine  # keeps the code in memory
    return function


@pytest.mark.parametrize(
    ("expression", "wanted"),
    [
        ("a + b * 3", 7 + 5 * 3),
        ("a - b - b", (7 - 5 - 5) % 2**64),
        ("(a << 3) | (b >> 1)", 58),
        ("(a & b) ^ ~b", (5 ^ ~5) % 2**64),
        ("a // b", 1),
        ("clz(a)", 61),
        ("low(a, b) + (high(a, b) << 8)", 5 + 7 * 256),
        ("a if a > b else b", 7),
        ("a if (a < b) or (b == 5) else 0", 7),
        ("a if (a < b) and (b == 5) else 0", 0),
        ("u64(a != b) + u64(a <= b) + u64(a >= b)", 2),
        ("u64(u8(a + 250))", 1),
        ("a + MANY", 7 + 2**40),
        ("a + (1 << 4) // (6 - 2) * 2", 7 + 8),
    ],
)
def test_expressions(expression: str, wanted: int) -> None:
    text = f"def f(a: u64, b: u64) -> u64:\n    return {expression}"

    assert compiled(text, MANY=2**40)(7, 5) == wanted


def test_loops_arrays_pointers_and_calls() -> None:
    text = """
def f(values: p_word, n: u64, out: p8) -> u64:
    total: u64 = 0
    table: u32[4]
    for i in range(0, 4):
        table[i] = u32(i * i)
    for i in lanes(0, n):
        total = total + twice(u64(values[i])) + u64(table[i & 3])
    poke(out, 1, u32(total))
    while total > 100:
        total -= 100
        if total == 3:
            return 1000
        else:
            total = total + 0
    return total + u64(peek(u16, at(out, 1), 0))

def twice(a: u64) -> u64:
    return a + a
"""
    values, out = np.arange(10, dtype="<u2"), np.zeros(8, np.uint8)

    found = compiled(text, {"word": "u16"})(address(values), 10, address(out))

    total = 2 * 45 + sum((i % 4) ** 2 for i in range(10))
    assert out.tolist() == [0, total, 0, 0, 0, 0, 0, 0]
    assert found == total % 100 + total


def test_states_below_the_limit_take_the_next_words_and_sums_run() -> None:
    text = """
def f(states: p32, words: p16, sums: p32, expand: u64) -> u64:
    state: u32[32]
    before: u32[32]
    for l in range(0, 32):
        state[l] = states[l]
    total = running(before, state, 32)
    for l in range(0, 32):
        sums[l] = before[l]
    taken = refill(state, words, 65536)
    for l in range(0, 32):
        states[l] = state[l]
    return (taken << 32) | u64(total)
"""
    rng = np.random.default_rng(0)
    states = rng.integers(0, 1 << 17, 32).astype("<u4")
    words = rng.integers(0, 1 << 16, 32).astype("<u2")
    sums, before = np.zeros(32, "<u4"), states.astype(np.int64)

    found = compiled(text)(address(states), address(words), address(sums), 0)

    short = before < 65536
    wanted = before.copy()
    wanted[short] = before[short] << 16 | words[: short.sum()]
    assert found == (int(short.sum()) << 32) | int(before.sum())
    assert (states == wanted).all()
    assert (sums == np.cumsum(before) - before).all()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("a = b.c", "not understood"),
        ("del a", "not understood"),
        ("a = u8(a) + a", "is u8"),
        ("b: u32 = a", "write u32"),
        ("b = 3", "without a type"),
        ("b: list = a", "no type"),
        ("a = sorted(a)", "not understood"),
        ("a, b = a, a", "cannot be assigned|not understood"),
        ("for i in a:\n        a = a", "not understood"),
    ],
)
def test_what_is_not_understood_is_refused(line: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        translate(f"def f(a: u64) -> u64:\n    {line}\n    return a")
