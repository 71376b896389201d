"""Token ids as CLIP and the starter were trained with."""

import json

import pytest

from memcard.errors import NotFoundError
from memcard.generation.tokenizer import _clip, tokenizer
from memcard.generation.tokenizer_files import tokenizer_files
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
            "clip_bang": CLIPTokenizer(
                vocab=dict(vocabulary), merges=merges, model_max_length=77, pad_token="!"
            ),
            "starter": CLIPTokenizer.from_pretrained(str(folder)),
        }


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize(("name", "length"), [("clip", 77), ("clip_bang", 77), ("starter", 24)])
def test_ids_are_those_of_transformers(
    name: str, length: int, prompt: str, references: dict[str, object]
) -> None:
    if name == "clip_bang":  # transformers takes a ! in a prompt for padding: next test
        prompt = prompt.replace("!", "")
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


def test_openclip_pads_with_an_exclamation_mark() -> None:
    clip, bang = tokenizer("clip").encode("a cat!", 77)[0], tokenizer("clip_bang")

    assert bang.encode("a cat!", 77)[0] == [*clip[:5], *[0] * 72]
    assert clip[4] == bang.end


def test_an_exclamation_mark_is_a_word_where_transformers_takes_it_for_padding(
    references: dict[str, object],
) -> None:
    """OpenCLIP's own tokenizer, which the encoders were trained with, gives 256 and 748."""
    theirs = references["clip_bang"]("a cat! wow!!").input_ids  # type: ignore[operator]

    assert tokenizer("clip_bang").encode("a cat! wow!!", 9)[0][1:6] == [320, 2368, 256, 2781, 748]
    assert theirs[1:7] == [320, 2368, 0, 2781, 0, 0]


@pytest.mark.parametrize("name", ["clip", "clip_bang", "starter"])
def test_the_files_pad_as_the_tokenizer_does(name: str) -> None:
    files = tokenizer_files(name)
    padding = json.loads(files["tokenizer_config.json"])["pad_token"]

    assert json.loads(files["vocab.json"])[padding] == tokenizer(name).padding


def test_tokens_know_where_they_begin() -> None:
    assert tokenizer("clip").tokens("a  cat, b") == [(320, 0), (2368, 3), (267, 6), (321, 8)]
    assert tokenizer("clip").comma == 267


def test_an_unknown_tokenizer_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(NotFoundError, match="clip, clip_bang, starter"):
        tokenizer("t5")
