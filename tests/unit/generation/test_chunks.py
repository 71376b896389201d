"""Long prompts in chunks of 75 tokens."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memcard.errors import MismatchError
from memcard.generation.chunks import MOST, Chunk, chunked, named
from memcard.generation.emphasis import weighted
from memcard.generation.tokenizer import Tokenizer, tokenizer
from memcard.generation.words import plain

CAT, DOG, COMMA = 2368, 1929, 267
START, END = 49406, 49407


@pytest.fixture(scope="module")
def clip() -> Tokenizer:
    return tokenizer("clip")


def inner(chunk: Chunk) -> list[int]:
    """The ids between start and end."""
    assert chunk.ids[0] == START
    assert len(chunk.ids) == len(chunk.weights) == 77
    end = chunk.ids.index(END)
    assert set(chunk.ids[end:]) <= {END}
    return list(chunk.ids[1:end])


def sizes(clip: Tokenizer, text: str, **how: Any) -> list[int]:
    return [len(inner(c)) for c in chunked(clip, weighted(text), 77, **how)[0]]


def test_what_fits_is_one_chunk_as_the_tokenizer_frames_it(clip: Tokenizer) -> None:
    text = "cat " * 75

    chunks, cut = chunked(clip, plain(text), 77)

    assert [list(c.ids) for c in chunks] == [clip.encode(text, 77)[0]]
    assert not chunks[0].weighty
    assert cut == ""


def test_an_empty_prompt_is_one_empty_chunk(clip: Tokenizer) -> None:
    assert [list(c.ids) for c in chunked(clip, plain(""), 77)[0]] == [[START, *[END] * 76]]


def test_openclip_s_chunks_are_padded_with_zero() -> None:
    (chunk,), _ = chunked(tokenizer("clip_bang"), plain("cat"), 77)

    assert chunk.ids == (START, CAT, END, *[0] * 74)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("cat " * 76, [75, 1]),  # no comma to step back to
        ("cat " * 59 + ", " + "cat " * 20, [60, 20]),  # 15 tokens back
        ("cat " * 55 + ", " + "cat " * 20, [56, 20]),  # 19 tokens back
        ("cat " * 54 + ", " + "cat " * 25, [75, 5]),  # 20 tokens after it: too far
        ("cat " * 74 + ", " + "cat " * 3, [75, 3]),  # the comma is the last of the chunk
        ("cat " * 75 + ", " + "cat " * 3, [75, 4]),  # a comma that does not fit is carried over
        ("cat " * 10 + "BREAK" + " cat" * 5, [10, 5]),
        ("cat BREAK", [1]),
        ("BREAK cat", [0, 1]),
        ("cat BREAK BREAK dog", [1, 0, 1]),
        ("cat " * 75 + "BREAK cat", [75, 1]),
        ("cat " * 200, [75, 75, 50]),
    ],
)
def test_where_a_prompt_is_broken(clip: Tokenizer, text: str, wanted: list[int]) -> None:
    assert sizes(clip, text) == wanted


def test_stepping_back_to_a_comma_can_be_left_out(clip: Tokenizer) -> None:
    text = "cat " * 59 + ", " + "cat " * 20

    assert sizes(clip, text, step_back=0) == [75, 5]
    assert sizes(clip, text, step_back=10) == [75, 5]
    assert sizes(clip, text, step_back=16) == [60, 20]


def test_a_short_encoder_steps_back_less() -> None:
    starter = tokenizer("starter")
    text = "cat " * 16 + ", " + "cat " * 8  # 22 places: 5 tokens back at most

    lengths = [c.ids.index(starter.end) - 1 for c in chunked(starter, plain(text), 24)[0]]

    assert lengths == [22, 3]


def test_emphasis_stays_with_its_tokens(clip: Tokenizer) -> None:
    (chunk,), _ = chunked(clip, weighted("a (cat:1.5) and [dog]"), 77)

    assert chunk.ids[1:5] == (320, CAT, 537, DOG)
    assert chunk.weights[:6] == (1.0, 1.0, 1.5, 1.0, 1 / 1.1, 1.0)
    assert set(chunk.weights[6:]) == {1.0}


def test_beyond_sixteen_chunks_the_rest_is_told(clip: Tokenizer) -> None:
    most = " ".join(["cat"] * 75 * MOST)

    assert chunked(clip, plain(most), 77)[1] == ""
    chunks, cut = chunked(clip, weighted(most + " (red (apple)) BREAK tree"), 77)

    assert len(chunks) == MOST
    assert cut == "red apple tree"


@given(st.lists(st.sampled_from(["cat", ",", "dog", "BREAK", "(owl:1.3)"]), max_size=400))
def test_no_token_is_lost_and_no_chunk_too_long(parts: list[str]) -> None:
    clip, words = tokenizer("clip"), weighted(" ".join(parts))

    chunks, cut = chunked(clip, words, 77)

    found = [i for chunk in chunks for i in inner(chunk)]
    wanted = [i for text, _ in words.pieces for i, _ in clip.tokens(text.replace("\x00", ""))]
    if not cut:
        assert found == wanted
    assert found == wanted[: len(found)]
    assert all(len(inner(chunk)) <= 75 for chunk in chunks)


def test_vectors_stand_where_the_name_stands(clip: Tokenizer) -> None:
    (chunk,), _ = chunked(clip, weighted("a (easy:1.2), cat"), 77, embeddings={"easy": 3})

    assert chunk.ids[1:8] == (320, 0, 0, 0, COMMA, CAT, END)
    assert chunk.vectors == ((2, "easy", 0), (3, "easy", 1), (4, "easy", 2))
    assert chunk.weights[1:6] == (1.0, 1.2, 1.2, 1.2, 1.0)


def test_an_embedding_is_never_torn(clip: Tokenizer) -> None:
    chunks, _ = chunked(clip, plain("cat " * 74 + "easy cat"), 77, embeddings={"easy": 2})

    assert [c.vectors for c in chunks] == [(), ((1, "easy", 0), (2, "easy", 1))]


def test_an_embedding_longer_than_a_chunk_is_refused(clip: Tokenizer) -> None:
    assert chunked(clip, plain("big"), 77, embeddings={"big": 75})[1] == ""
    with pytest.raises(MismatchError, match=r"at most 75 vectors.*'big' has 76"):
        chunked(clip, plain("big"), 77, embeddings={"big": 76})


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a easy b", ["easy"]),
        ("EASY, uneasy easygoing easy2 easy_b", ["easy"]),
        ("embedding:easy embedding:Easy.pt embedding:easy.safetensors", ["easy"] * 3),
        ("<easy> <EASY>", ["easy", "easy"]),
        ("bad-hands-5, bad-hands", ["bad-hands-5", "bad-hands"]),
        ("a<cat-toy>b", ["<cat-toy>"]),
        ("\u0130easy ea\u017fy", ["easy"]),
        ("cat", []),
        ("", []),
    ],
)
def test_how_a_prompt_names_an_embedding(text: str, names: list[str]) -> None:
    known = ("easy", "bad-hands", "bad-hands-5", "<cat-toy>")

    parts = list(named(text, known))

    assert [name for _, _, name in parts if name] == names
    assert "".join(part for _, part, _ in parts) == text
    assert [at for at, _, _ in parts] == [text.index(p, at) for at, p, _ in parts]


def test_a_name_as_it_is_written_comes_before_one_in_other_letters() -> None:
    assert [n for _, _, n in named("Cat cat", ("cat", "Cat")) if n] == ["Cat", "cat"]
