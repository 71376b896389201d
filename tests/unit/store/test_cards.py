"""Cards on the disk: the bytes of the first version must be read for ever, and are written the same."""

from __future__ import annotations

from pathlib import Path

from memcard.core.card import Card
from memcard.store import cards
from memcard.store.cards import Kept
from memcard.store.layout import Layout
from memcard.store.writer import Writer

GOLDEN = Path(__file__).parents[2] / "golden" / "card_v1.json"
SHA256 = "b0c6" * 16
READ = Card(title="Neon", tags=("film",), settings={"cfg": 6, "steps": 20}).said_by("a1111_sidecar")
SAID = Card(settings={"cfg": 5}, trigger_words=("glow",), license="mit")


def home(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path)
    cards.folder(layout).mkdir()
    return layout


def test_the_first_version_is_read_for_ever(tmp_path: Path) -> None:
    layout = home(tmp_path)
    cards.path_of(layout, SHA256).write_bytes(GOLDEN.read_bytes())

    kept = cards.get(layout, SHA256)

    assert kept == Kept(SHA256, READ, SAID)
    assert kept is not None
    assert kept.card.settings == {"cfg": 5, "steps": 20}
    assert kept.card.origin["settings.cfg"] == "library"
    assert kept.card.origin["settings.steps"] == "a1111_sidecar"


def test_the_same_card_gives_the_same_bytes(tmp_path: Path) -> None:
    layout = home(tmp_path)

    with Writer(layout) as writer:
        cards.put(writer, Kept(SHA256, READ, SAID))

    assert cards.path_of(layout, SHA256).read_bytes() == GOLDEN.read_bytes()
    assert list(cards.every(layout)) == [SHA256]


def test_a_damaged_card_is_replaced_by_what_is_read(tmp_path: Path) -> None:
    layout = home(tmp_path)
    cards.path_of(layout, SHA256).write_text("{")

    with Writer(layout) as writer, writer.commit():
        cards.note_read(writer, SHA256, READ)

    assert cards.get(layout, SHA256) == Kept(SHA256, READ)


def test_only_cards_are_listed(tmp_path: Path) -> None:
    layout = home(tmp_path)
    (cards.folder(layout) / "README.json").touch()

    assert list(cards.every(layout)) == []
    assert list(cards.every(Layout(tmp_path / "nowhere"))) == []
