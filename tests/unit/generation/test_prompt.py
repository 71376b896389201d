"""Prompts that change from step to step, as stable-diffusion-webui documents them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memcard.generation.prompt import Prompt, escaped, parse
from memcard.generation.words import plain

MARKS = st.text(alphabet=r"ab ()[]\:|.12<>=loraANDBREAK", max_size=60)
ANY = st.one_of(st.text(max_size=60), MARKS)


def texts(prompt: str | Prompt, steps: int = 10) -> list[tuple[int, str]]:
    parsed = parse(prompt) if isinstance(prompt, str) else prompt
    return [(end, words.text) for end, words in parsed.spans(steps)]


@pytest.mark.parametrize(
    ("prompt", "spans"),
    [
        ("test", [(10, "test")]),
        ("a [b:3]", [(3, "a "), (10, "a b")]),
        ("a [b: 3 ]", [(3, "a "), (10, "a b")]),
        ("a [[[b]]:2]", [(2, "a "), (10, "a b")]),
        ("[(a:2):3]", [(3, ""), (10, "a")]),
        ("a [b : c : 1] d", [(1, "a b  d"), (10, "a  c  d")]),
        ("a[b:[c:d:2]:1]e", [(1, "abe"), (2, "ace"), (10, "ade")]),
        ("a [b::4] c", [(4, "a b c"), (10, "a  c")]),
        ("a [unbalanced", [(10, "a unbalanced")]),
        ("a [b:.5] c", [(5, "a  c"), (10, "a b c")]),
        ("a [{b|d{:.5] c", [(5, "a  c"), (10, "a {b|d{ c")]),
        ("((a][:b:c [d:3]", [(3, "a]:b:c "), (10, "a]:b:c d")]),
        ("([a:b:4], c:1.3)", [(4, "a, c"), (10, "b, c")]),
        ("[a:b:0]", [(10, "b")]),
        ("[a:b:12]", [(10, "a")]),
        ("[a:b:-3]", [(10, "b")]),
        ("[a:b:1.0]", [(10, "a")]),
        (r"[a\:b:c:5]", [(5, "a:b"), (10, "c")]),
        (r"\[a:b:5]", [(10, "[a:b:5]")]),
        ("[a:b:c:5]", [(10, "a:b:c:5")]),
        ("[embedding:a:embedding:b:5]", [(5, "embedding:a"), (10, "embedding:b")]),
        ("[embedding:5]", [(5, ""), (10, "embedding")]),
        ("[a:b]", [(10, "a:b")]),
    ],
)
def test_what_holds_up_to_which_step(prompt: str, spans: list[tuple[int, str]]) -> None:
    assert texts(prompt) == spans


def test_the_wiki_s_long_example() -> None:
    prompt = (
        "fantasy landscape with a [mountain:lake:0.25] and [an oak:a christmas tree:0.75]"
        "[ in foreground::0.6][ in background:0.25] [shoddy:masterful:0.5]"
    )

    start = "fantasy landscape with a"
    assert texts(prompt, 100) == [
        (25, f"{start} mountain and an oak in foreground shoddy"),
        (50, f"{start} lake and an oak in foreground in background shoddy"),
        (60, f"{start} lake and an oak in foreground in background masterful"),
        (75, f"{start} lake and an oak in background masterful"),
        (100, f"{start} lake and a christmas tree in background masterful"),
    ]


def test_words_take_turns() -> None:
    assert texts("[cow|horse] in a field", 4) == [
        (1, "cow in a field"),
        (2, "horse in a field"),
        (3, "cow in a field"),
        (4, "horse in a field"),
    ]
    assert [text for _, text in texts("[cow|cow|horse|man|siberian tiger]", 6)] == [
        *("cow", "horse", "man", "siberian tiger", "cow")
    ]  # the first two steps are one span
    assert texts("[fe|]male", 2) == [(1, "female"), (2, "male")]
    assert texts("[a|[b:c:3]]", 6) == [*enumerate("abacac", 1)]


def test_emphasis_inside_a_change_is_emphasis() -> None:
    (_, first), (_, second) = parse("([a:(b:1.5):3]:2)").spans(10)

    assert first.pieces == (("a", 2.0),)
    assert second.pieces == (("b", 3.0),)


def test_a_second_pass_goes_on_counting() -> None:
    """Wiki, "Seed breaking changes", 1.6.0: shares above 1 are of the second pass."""
    passes = {
        prompt: (texts(prompt), texts(parse(prompt).second_pass(10), 8))
        for prompt in ("[red:green:0.5]", "[red:green:1.25]", "[red:green:5]", "[red:green:12]")
    }

    assert passes == {
        "[red:green:0.5]": ([(5, "red"), (10, "green")], [(8, "green")]),
        "[red:green:1.25]": ([(10, "red")], [(2, "red"), (8, "green")]),
        "[red:green:5]": ([(5, "red"), (10, "green")], [(8, "green")]),
        "[red:green:12]": ([(10, "red")], [(2, "red"), (8, "green")]),
    }


def test_loras_are_taken_out_with_their_strengths() -> None:
    prompt = parse("a <lora:x:0.8> b <lora:Y v2.1> <LORA:z:0.8:0.5><lyco:w:unet=1:te=0>c")

    assert prompt.spans(3)[0][1].text == "a  b  c"
    assert prompt.loras == (
        ("x", 0.8, None),
        ("Y v2.1", 1.0, None),
        ("z", 0.5, 0.8),  # the text encoders' strength comes first
        ("w", 1.0, 0.0),
    )
    assert prompt.notes == ()


@pytest.mark.parametrize(
    ("tag", "note"),
    [
        ("<hypernet:anime:1>", "does not run hypernetworks"),
        ("<lora:x:strong>", "'strong' is no strength"),
        ("<lora:x:nan>", "'nan' is no strength"),
        ("<lora::1>", "names no LoRA"),
        ("<wildcard:animals>", "no tag is called 'wildcard'"),
    ],
)
def test_a_tag_that_cannot_be_followed_is_left_out_and_noted(tag: str, note: str) -> None:
    prompt = parse(f"a {tag}cat")

    assert prompt.at(0, 1) == plain("a cat")
    assert prompt.loras == ()
    assert [note in n for n in prompt.notes] == [True]


def test_what_is_not_followed_in_a_lora_is_noted() -> None:
    prompt = parse("<lora:x:1:0.5:13><lora:y:1:lbw=MIDD>")

    assert prompt.loras == (("x", 0.5, 1.0), ("y", 1.0, None))
    assert ["'13'" in prompt.notes[0], "'lbw=MIDD'" in prompt.notes[1]] == [True, True]


def test_and_is_a_word_with_a_note() -> None:
    assert "AND" in parse("a cat AND a dog").notes[0]
    assert parse("a cat and a dog, ANDROID").notes == ()
    assert parse("a cat AND a dog").at(0, 1) == plain("a cat AND a dog")


@given(st.text(st.characters(exclude_characters="()[]\\<\x00", exclude_categories=["Cs"])))
def test_text_without_marks_is_itself(text: str) -> None:
    if "BREAK" not in text:
        assert parse(text).spans(7) == ((7, plain(text)),)


@given(ANY)
def test_an_escaped_text_is_itself(text: str) -> None:
    wanted = text.replace("\x00", " ")

    assert parse(escaped(text)).spans(7) == ((7, plain(wanted)),)


@given(ANY, st.integers(1, 40), st.integers(0, 40))
def test_any_text_is_a_prompt_and_its_spans_cover_all_steps(
    text: str, steps: int, passed: int
) -> None:
    prompt = parse(text).second_pass(passed)
    spans = prompt.spans(steps)

    ends = [end for end, _ in spans]
    assert ends == sorted(set(ends))
    assert ends[0] >= 1
    assert ends[-1] == steps
    for step in range(steps):
        assert prompt.at(step, steps) == next(words for end, words in spans if step < end)


@pytest.mark.parametrize(
    "text",
    [
        *("[" * 5000 + "a" + ":1]" * 5000, "[" * 5000 + "a" + "]" * 5000),
        *("([" * 5000 + ")]" * 5000, "[a:" + "9" * 5000 + "]", "[a:-" + "9" * 5000 + "]"),
        *("[a|" * 5000, "\ud800 half a character", "<a" * 5000),
    ],
    ids=["changes", "brackets", "crossed", "late", "early", "bars", "surrogate", "tags"],
)
def test_nonsense_of_any_length_is_a_prompt(text: str) -> None:
    assert parse(text).spans(5)[-1][0] == 5
