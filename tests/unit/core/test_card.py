"""The card itself: one form for every value, JSON there and back, merging by trust."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memcard.core.card import Card, check, from_dict, merge
from memcard.core.card_fields import HASHES, SETTINGS, plain
from memcard.errors import CorruptError, UnsupportedError, UsageError

FULL = Card(
    title="Ölmalerei",
    license="CC-BY-4.0",
    tags=("oil", "paint"),
    previews=("x.preview.png", "https://example.org/a.jpg"),
    settings={"cfg": 4.5, "steps": 20, "size": "512x768"},
    permissions={"allowNoCredit": False, "allowCommercialUse": ("Image", "Rent")},
    links={"home": "https://example.org"},
    hashes={"autov2": "0123456789"},
    extra={"civitai_info": {"stats": {"downloads": 3}, "odd": [None, True, 1.5]}},
    notes=("title: a says 'x', b says 'y'.",),
).said_by("modelspec", guessed=["tags"])


def test_a_card_survives_json() -> None:
    assert Card.from_json(FULL.to_json()) == FULL


def test_the_json_is_canonical() -> None:
    text = Card(title="é", tags=("b", "a"), settings={"steps": 3, "cfg": 1}).to_json()

    assert text == (
        '{"memcard_card":1,"settings":{"cfg":1,"steps":3},"tags":["b","a"],"title":"é"}'
    )
    assert Card.from_json(text).to_json() == text


@given(
    title=st.none() | st.text(min_size=1).filter(lambda t: t.strip()),
    tags=st.lists(st.text(min_size=1, max_size=9).filter(lambda t: t.strip()), max_size=4),
    cfg=st.none() | st.floats(0, 1000) | st.integers(0, 1000),
    extra=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    ),
)
def test_any_lawful_card_survives_json(
    title: str | None, tags: list[str], cfg: float | None, extra: object
) -> None:
    found = {"title": title, "tags": tags, "settings": {} if cfg is None else {"cfg": cfg}}
    card, faults = from_dict({k: v for k, v in found.items() if v} | {"foreign": extra})

    assert faults == ()
    assert card.extra["memcard"]["foreign"] == plain(extra)
    assert Card.from_json(card.to_json()) == card


def test_names_that_no_card_has_are_kept() -> None:
    card = Card.from_json('{"title": "x", "limits": "none", "made_from": [{"name": "a"}]}')

    assert card.extra == {"memcard": {"limits": "none", "made_from": [{"name": "a"}]}}


def test_all_faults_are_named_at_once() -> None:
    text = json.dumps(
        {"title": 3, "tags": "a, b", "settings": {"cfg": -1, "colour": 1}, "links": 1}
    )

    with pytest.raises(CorruptError) as caught:
        Card.from_json(text, where="x.memcard.json")

    assert caught.value.faults == (
        "title is 3, not a text.",
        "tags is 'a, b', not a list.",
        "settings.cfg is -1; it must be 0 to 1000.",
        "settings.colour is no field of a card.",
        "links is not an object.",
    )
    assert str(caught.value).startswith("x.memcard.json: title is 3")


@pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 100_000, '{"a":1e', "\ufeff{}"])
def test_what_is_no_card_is_refused(text: str) -> None:
    with pytest.raises(CorruptError, match=r"^card: is not"):
        Card.from_json(text)


def test_a_later_version_is_refused_with_the_remedy() -> None:
    with pytest.raises(UnsupportedError, match=r"version 2; this memcard knows 1\. Update memcard"):
        Card.from_json('{"memcard_card": 2}')


@pytest.mark.parametrize(
    ("name", "value", "form"),
    [
        ("title", "  x \n", "x"),
        ("title", "half \ud800", "half ?"),
        ("tags", ["a", " a", "b"], ("a", "b")),
        ("settings.cfg", "7.0", 7),
        ("settings.cfg", 7.5, 7.5),
        ("settings.size", "512 x 768", "512x768"),
        ("settings.prediction_type", "v", "v_prediction"),
        ("settings.prediction_type", "v-prediction", "v_prediction"),
        ("hashes.sha256", "0x" + "AB" * 32, "ab" * 32),
        ("permissions.allowDerivatives", False, False),
        ("permissions.allowCommercialUse", "{Image,RentCivit}", ("Image", "RentCivit")),
        ("permissions.allowCommercialUse", [], ()),
        ("links.page", "https://civitai.com/models/1?modelVersionId=2", None),
        ("previews", ["a b.preview.png", "x.swarm.json#modelspec.thumbnail"], None),
    ],
)
def test_a_value_is_brought_into_one_form(name: str, value: object, form: object) -> None:
    found = check(name, value)

    assert found == (
        form if form is not None else tuple(value) if isinstance(value, list) else value
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("title", " "),
        ("title", "x" * 100_001),
        ("tags", [1]),
        ("tags", ["t"] * 1001),
        ("settings.cfg", True),
        ("settings.cfg", float("nan")),
        ("settings.cfg", 10**400),
        ("settings.cfg", "7.5 or so"),
        ("settings.steps", 20.5),
        ("settings.steps", 0),
        ("settings.size", "512x0"),
        ("settings.prediction_type", "sample"),
        ("hashes.sha256", "ab"),
        ("hashes.sha256", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        ("hashes.autov3", "E3B0C44298FC"),
        ("hashes.md5", "ab" * 16),
        ("permissions.allowDerivatives", "yes"),
        ("permissions.allowAll", True),
        ("links.page", "javascript:alert(1)"),
        ("links.page", "file:///etc/passwd"),
        ("links.a b", "https://example.org"),
        ("previews", ["/etc/passwd"]),
        ("previews", ["../x.png"]),
        ("previews", ["C:\\x.png"]),
        ("previews", ["data:image/png;base64,AAAA"]),
        ("origin.title", "me"),
        ("colour", "red"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(name: str, value: object) -> None:
    with pytest.raises(UsageError):
        check(name, value)


def test_every_setting_and_hash_can_be_stated() -> None:
    text = {"size": "8x8", "prediction_type": "epsilon"}
    for name, rule in SETTINGS.items():
        check(f"settings.{name}", 2 if rule.kind in (int, float) else text.get(name, "x"))
    for name, digits in HASHES.items():
        assert check(f"hashes.{name}", "a" * digits)


def test_the_most_trusted_says_and_the_contradiction_is_noted() -> None:
    first = Card(title="Mine", settings={"cfg": 5}).said_by("memcard_sidecar")
    second = Card(title="Theirs", author="someone", settings={"cfg": 7, "steps": 20}).said_by(
        "site"
    )

    card = merge([first, second])

    assert (card.title, card.author, card.settings) == ("Mine", "someone", {"cfg": 5, "steps": 20})
    assert card.origin == {
        "title": "memcard_sidecar",
        "author": "site",
        "settings.cfg": "memcard_sidecar",
        "settings.steps": "site",
    }
    assert card.notes == (
        "title: memcard_sidecar says 'Mine', site says 'Theirs'.",
        "settings.cfg: memcard_sidecar says '5', site says '7'.",
    )


def test_case_and_blanks_are_no_contradiction() -> None:
    card = merge([Card(license="MIT").said_by("a"), Card(license=" mit ").said_by("b")])

    assert (card.license, card.notes) == ("MIT", ())


def test_flags_that_contradict_each_other_are_noted() -> None:
    first = Card(permissions={"allowCommercialUse": ("Sell",)}).said_by("a")
    second = Card(permissions={"allowCommercialUse": ()}).said_by("b")

    assert merge([first, second]).notes == (
        "permissions.allowCommercialUse: a says 'Sell', b says 'nothing'.",
    )


def test_a_guess_yields_to_everybody_without_a_note() -> None:
    guess = Card(trigger_words=("1girl",), settings={"cfg": 9}).said_by(
        "trainer", guessed=["trigger_words", "settings.cfg"]
    )
    stated = Card(settings={"cfg": 5}).said_by("last")

    card = merge([guess, stated])

    assert (card.trigger_words, card.settings) == (("1girl",), {"cfg": 5})
    assert card.origin == {"trigger_words": "trainer (guess)", "settings.cfg": "last"}
    assert card.notes == ()


def test_pictures_are_gathered_and_lists_are_taken_whole() -> None:
    first = Card(previews=("a.png",), tags=("mine",)).said_by("a")
    second = Card(previews=("b.png", "a.png"), tags=("theirs",)).said_by("b")

    card = merge([first, second])

    assert (card.previews, card.tags) == (("a.png", "b.png"), ("mine",))
    assert card.origin["previews"] == "a, b"


def test_nothing_of_extra_is_lost() -> None:
    first = Card(extra={"a": {"x": 1}})
    second = Card(extra={"b": {"y": 2}, "a": {"x": 3, "z": 4}})

    assert merge([first, second]).extra == {"a": {"x": 1, "z": 4}, "b": {"y": 2}}


def test_merging_one_card_or_none_changes_nothing() -> None:
    assert merge([FULL]) == FULL
    assert merge([]) == Card()


def test_every_field_is_described() -> None:
    described = Card.__doc__ or ""

    assert [f.name for f in fields(Card) if f"{f.name}:" not in described] == []
