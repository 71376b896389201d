"""docs/cards.md says what the code has."""

from __future__ import annotations

from pathlib import Path

from memcard.cards import CARDS, SIDECAR_BYTES, trusted
from memcard.core.card import Card
from memcard.core.card_fields import HASHES, LISTS, PERMISSIONS, SETTINGS, TEXTS

GUIDE = (Path(__file__).parents[3] / "docs" / "cards.md").read_text("utf-8")


def test_every_dialect_is_in_its_table_in_the_order_of_trust() -> None:
    rows = [line.split("|") for line in GUIDE.splitlines() if line.startswith("| `")]
    listed = [(row[1].strip(" `"), row[3].strip()) for row in rows if row[-2].strip().isdigit()]

    assert listed == [(name, str(CARDS[name].trust)) for name in trusted()]


def test_every_field_is_in_its_table() -> None:
    names = [*TEXTS, *LISTS, *SETTINGS, *PERMISSIONS, *HASHES, "origin", "notes", "extra"]

    assert [name for name in names if f"`{name}`" not in GUIDE] == []
    assert set(Card.__dataclass_fields__) <= {*names, "settings", "permissions", "links", "hashes"}


def test_the_limit_is_the_one_in_the_code() -> None:
    assert f"up to {SIDECAR_BYTES >> 20} MiB" in GUIDE
