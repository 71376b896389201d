import pytest

from memcard.errors import UsageError
from memcard.training.finetune.captions import Captions


def test_the_trigger_stands_before_captions_that_have_it_not() -> None:
    captions = Captions("chalk drawing")

    assert captions.fixed("a dog") == "chalk drawing, a dog"
    assert captions.fixed("a Chalk Drawing of a dog") == "a Chalk Drawing of a dog"
    assert captions.fixed("chalk drawings") == "chalk drawing, chalk drawings"
    assert captions.fixed("") == "chalk drawing"
    assert Captions().fixed("a dog") == "a dog"


def test_a_prompt_depends_on_seed_epoch_and_example_alone() -> None:
    captions = Captions(dropout=0.5, shuffle=True, seed=3)
    said = [captions.prompt("a, b, c, d", epoch, index) for epoch in range(5) for index in range(5)]
    again = Captions(dropout=0.5, shuffle=True, seed=3)

    assert [again.prompt("a, b, c, d", e, i) for e in range(5) for i in range(5)] == said
    assert len(set(said)) > 5


def test_dropout_leaves_out_the_whole_prompt_about_as_often_as_asked() -> None:
    captions = Captions("sks", dropout=0.3)
    said = [captions.prompt("a dog", 0, index) for index in range(1000)]

    assert 250 < said.count("") < 350
    assert set(said) == {"", "sks, a dog"}


def test_shuffling_keeps_all_tags_and_the_first_ones_in_front() -> None:
    captions = Captions(shuffle=True, keep=2)
    said = {captions.prompt("one, two, three, four, five", e, 0) for e in range(30)}

    assert all(text.startswith("one, two, ") for text in said)
    assert all(sorted(t.split(", ")) == ["five", "four", "one", "three", "two"] for t in said)
    assert len(said) == 6


def test_values_out_of_range_are_refused() -> None:
    with pytest.raises(UsageError, match=r"1\.5 is not in 0\.\.1"):
        Captions(dropout=1.5)
    with pytest.raises(UsageError, match="-1 is negative"):
        Captions(keep=-1)
