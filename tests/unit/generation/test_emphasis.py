"""Emphasis as stable-diffusion-webui documents it."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memcard.generation.emphasis import LIMIT, weighted
from memcard.generation.words import BREAK

MARKS = st.text(alphabet=r"ab ,()[]\:.1-BREAK" + "\n", max_size=60)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("normal text", [("normal text", 1.0)]),
        ("", [("", 1.0)]),
        ("a (word)", [("a ", 1.0), ("word", 1.1)]),
        ("a ((word))", [("a ", 1.0), ("word", 1.21)]),
        ("a [word]", [("a ", 1.0), ("word", 1 / 1.1)]),
        ("a (word:1.5)", [("a ", 1.0), ("word", 1.5)]),
        ("a (word:0.25)", [("a ", 1.0), ("word", 0.25)]),
        ("a (word: .5 ) b", [("a ", 1.0), ("word", 0.5), (" b", 1.0)]),
        ("(word:-1)", [("word", -1.0)]),
        (r"a \(word\)", [("a (word)", 1.0)]),
        (r"anime_\(character\) \[x\] \\", [("anime_(character) [x] \\", 1.0)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        ("[unbalanced", [("unbalanced", 1 / 1.1)]),
        ("unbalanced) :1.2) ]", [("unbalanced) :1.2) ]", 1.0)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        ("time 12:30, ratio 16:9", [("time 12:30, ratio 16:9", 1.0)]),
        ("(a:1.2.3)", [("a:1.2.3", 1.1)]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [
                ("a ", 1.0),
                ("house", 1.573),
                (" ", 1.1),
                ("on", 1.0),
                (" a ", 1.1),
                ("hill", 0.55),
                (", sun, ", 1.1),
                ("sky", 1.4641),
                (".", 1.1),
            ],
        ),
    ],
)
def test_documented_examples(text: str, pieces: list[tuple[str, float]]) -> None:
    found = weighted(text).pieces

    assert [piece for piece, _ in found] == [piece for piece, _ in pieces]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in pieces])


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("a BREAK b", (("a", 1.0), (BREAK, 1.0), ("b", 1.0))),
        ("a, BREAK\nb BREAK c", (("a,", 1.0), (BREAK, 1.0), ("b", 1.0), (BREAK, 1.0), ("c", 1.0))),
        ("(a BREAK b:2)c", (("a", 2.0), (BREAK, 1.0), ("b", 2.0), ("c", 1.0))),
        ("BREAK", ((BREAK, 1.0),)),
        ("break BREAKER \\BREAK", (("break BREAKER BREAK", 1.0),)),
    ],
)
def test_break_is_a_piece_of_its_own(text: str, pieces: tuple[tuple[str, float], ...]) -> None:
    assert weighted(text).pieces == pieces


@given(MARKS)
def test_any_text_is_read_and_no_letter_is_lost(text: str) -> None:
    words = weighted(text)

    assert words.pieces
    assert all(-LIMIT <= weight <= LIMIT for _, weight in words.pieces)
    kept = "".join(piece for piece, _ in words.pieces if piece != BREAK)
    assert kept.count("a") == text.count("a")
    assert kept.count(",") == text.count(",")


@given(MARKS)
def test_neighbours_of_one_weight_are_one_piece(text: str) -> None:
    for one, other in pairwise(weighted(text).pieces):
        assert BREAK in (one[0], other[0]) or one[1] != other[1]


@pytest.mark.parametrize(
    "text",
    ["(" * 20_000 + "a", "(a" * 5000 + ")" * 5000, ":" + "1" * 200_000, " " * 200_000 + "BREA"],
    ids=["opened", "nested", "digits", "blanks"],
)
def test_long_nonsense_is_read_at_once(text: str) -> None:
    assert all(abs(weight) <= LIMIT for _, weight in weighted(text).pieces)
