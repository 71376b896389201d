"""Token ids as CLIP and the starter were trained with."""

import pytest

from memcard.errors import NotFoundError
from memcard.generation.tokenizer import _clip, tokenizer
from memcard.jobs.resolve import starter_folder

PROMPTS = [
    "",
    "a photo of a cat",
    "3d render of a red apple, sky blue background",
    "A  RED\tapple\n!!",
    "très beau café — naïve",
    "一只猫 🐱",
    "it's 35mm, f/1.8 (masterpiece:1.2)",
    "e\u0301 decomposed, non\u00a0breaking",
    "<|endoftext|> in the middle",
    "don't they'll we've",
]


def test_clip_gives_the_ids_everybody_knows() -> None:
    ids, cut = tokenizer("clip").encode("a photo of a cat", 77)

    assert ids == [49406, 320, 1125, 539, 320, 2368, *[49407] * 71]
    assert cut == ""


@pytest.fixture(scope="module")
def references() -> dict[str, object]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import CLIPTokenizer

        vocabulary, merges = _clip()
        folder = starter_folder() / "config" / "tokenizer"
        return {
            "clip": CLIPTokenizer(vocab=dict(vocabulary), merges=merges, model_max_length=77),
            "starter": CLIPTokenizer.from_pretrained(str(folder)),
        }


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize(("name", "length"), [("clip", 77), ("starter", 24)])
def test_ids_are_those_of_transformers(
    name: str, length: int, prompt: str, references: dict[str, object]
) -> None:
    wanted = references[name](  # type: ignore[operator]
        prompt, padding="max_length", max_length=length, truncation=True
    ).input_ids

    assert tokenizer(name).encode(prompt, length)[0] == wanted


def test_the_vocabulary_of_clip_has_its_size() -> None:
    vocabulary, merges = _clip()

    assert sorted(vocabulary.values()) == list(range(49408))
    assert len(merges) == 48894


@pytest.mark.parametrize(("name", "length"), [("clip", 77), ("starter", 24)])
def test_what_does_not_fit_is_told_word_by_word(name: str, length: int) -> None:
    words = "cat " * (length - 2)
    fits, nothing = tokenizer(name).encode(words.strip(), length)
    ids, cut = tokenizer(name).encode(words + "red apple", length)

    assert nothing == ""
    assert len(fits) == len(ids) == length
    assert ids == fits
    assert cut == "red apple"
    assert ids[-1] == tokenizer(name).end


def test_an_unknown_tokenizer_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(NotFoundError, match="clip, starter"):
        tokenizer("t5")
