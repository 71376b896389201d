import pytest

from memcard.jobs._pick_words import Fit, fits, wanted_words


def scores(words: str, *texts: dict[str, str]) -> list[float]:
    return [f.score for f in found(words, *texts)]


def found(words: str, *texts: dict[str, str]) -> list[Fit]:
    wanted = wanted_words(words)
    having = {
        w: sum(any(p.startswith(w) for p in " ".join(t.values()).lower().split()) for t in texts)
        for w in wanted
    }
    return fits(wanted, list(texts), total=len(texts), having=having)


@pytest.mark.parametrize(
    ("purpose", "words"),
    [
        ("portraits in the style of film", ("portrait", "film")),
        ("Pixel-Art", ("pixel", "art")),
        ("a good picture", ("a", "good", "picture")),  # nothing else is said, so this counts
        ("glass", ("glass",)),
        ("Käse, käse", ("kase",)),
        ("!?", ()),
    ],
)
def test_words_that_tell_checkpoints_apart(purpose: str, words: tuple[str, ...]) -> None:
    assert wanted_words(purpose) == words


def test_a_tag_counts_more_than_a_word_of_a_long_description() -> None:
    tagged = {"name": "one", "tags": "portrait"}
    described = {
        "name": "two",
        "description": "trained on anything, also on a portrait or two " + "and so on " * 50,
    }

    assert scores("portrait", tagged, described)[0] > scores("portrait", tagged, described)[1] > 0


def test_more_words_of_the_purpose_count_more() -> None:
    both, one, none = scores(
        "pixel art", {"tags": "pixel art"}, {"tags": "pixel photo"}, {"tags": "photo"}
    )

    assert both > one > none == 0


def test_a_rare_word_counts_more_than_one_that_all_have() -> None:
    texts = [{"tags": "photo"}, {"tags": "photo"}, {"tags": "photo"}, {"tags": "stencil"}]

    assert scores("photo stencil", *texts)[3] > scores("photo stencil", *texts)[0]


def test_a_word_is_found_in_names_written_together_and_by_its_beginning() -> None:
    result = found(
        "anime", {"name": "myAnimeMix_v3"}, {"description": "an animelike look"}, {"name": "x"}
    )

    assert [f.where for f in result] == [{"anime": ("name",)}, {"anime": ("description",)}, {}]


def test_equal_texts_fit_equally() -> None:
    first, second = scores("film", {"tags": "film"}, {"tags": "film"})

    assert first == second
