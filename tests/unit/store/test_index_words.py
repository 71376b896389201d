"""Words as people type them into a search box."""

from __future__ import annotations

import pytest

from memcard.store.index_words import fold, name_words, plain_words, query_words


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("dreamshaperXL10", ["dreamshaperxl10", "xl10", "10"]),
        ("v1-5-pruned-emaonly", ["v1", "1", "5", "pruned", "emaonly"]),
        ("sd_xl_base_1.0", ["sd", "xl", "base", "1", "0"]),
        ("PixArt\u03a3", ["pixart\u03c3", "art\u03c3"]),
        ("alpha2Xl10", ["alpha2xl10", "2xl10", "xl10", "10"]),
        ("", []),
    ],
)
def test_a_name_is_found_by_each_of_its_parts(name: str, parts: list[str]) -> None:
    assert name_words([name]).split() == parts


def test_long_texts_give_each_word_once() -> None:
    assert plain_words(["The art, the ART.", "of Art"]) == " the art of"


def test_case_accents_and_wide_letters_tell_no_difference() -> None:
    assert fold("ÉCOLE Straße \uff46\uff4c\uff55\uff58") == "ecole strasse flux"


def test_a_query_is_words_and_nothing_else() -> None:
    assert query_words('Déjà-vu "OR" NEAR(a) deja') == ("deja", "vu", "or", "near", "a")
    assert query_words(" \t*%_") == ()
    assert len(query_words(" ".join(map(str, range(1000))))) == 32
