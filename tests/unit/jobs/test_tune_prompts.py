from pathlib import Path

import pytest

from memcard.core.card import Card
from memcard.errors import FormatError, NotFoundError, UsageError
from memcard.jobs._tune_prompts import GENERAL, STARTER_OBJECTS, prompts_for, read_prompts

NOTHING = Card()


def test_a_third_is_held_out_and_nothing_is_on_both_sides() -> None:
    found = prompts_for("sd1", NOTHING, ())

    assert len(found.held_out) == len(GENERAL) // 3
    assert set(found.search) | set(found.held_out) == set(GENERAL)
    assert not set(found.search) & set(found.held_out)
    assert found.origin == "24 general prompts"


def test_given_prompts_come_first_then_those_of_previews_then_our_own() -> None:
    card = Card(trigger_words=("xyz",))

    assert prompts_for("sd1", card, ("a", "b", "c"), ("d", "e", "f")).search == ("a", "b")
    assert prompts_for("sd1", card, (), ("d", "e", "f")).held_out == ("f",)
    assert prompts_for("sd1", card, (), ("d", "e")).search[0] == f"xyz, {GENERAL[0]}"


def test_the_starter_paints_its_own_objects_in_the_styles_it_was_taught() -> None:
    neon = prompts_for("starter", Card(trigger_words=("neon glow",)), ())
    base = prompts_for("starter", NOTHING, ())

    assert neon.search[0] == "neon glow of a dog face"
    assert base.search[:2] == ("3d render of a dog face", "flat icon of a cat face")
    assert "3d render of an octopus" in (*base.search, *base.held_out)
    assert len(base.search) + len(base.held_out) == len(STARTER_OBJECTS) == 24


def test_rivals_are_others_of_the_same_side_and_no_prompt_at_all() -> None:
    found = prompts_for("sd1", NOTHING, tuple("abcdefghi"))

    assert found.rivals("a", 2) == ("b", "d", "")
    assert found.rivals("i", 5) == ("c", "f", "")
    assert all(set(found.rivals(text, 9)) - {""} <= set(found.held_out) for text in found.held_out)


def test_too_few_different_prompts_are_refused() -> None:
    with pytest.raises(UsageError, match="2 prompts are too few: at least 3"):
        prompts_for("sd1", NOTHING, ("a", "b", "a"))


def test_a_file_has_one_prompt_a_line(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("\ufeffa cat\n\n# no prompt\n  ein Käse \n", encoding="utf-8")

    assert read_prompts(file) == ("a cat", "ein Käse")
    with pytest.raises(NotFoundError, match="one prompt a line"):
        read_prompts(tmp_path / "other.txt")
    file.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(FormatError, match="not UTF-8"):
        read_prompts(file)
