"""``X.memcard.json``: what the user says about a file, written by ``memcard card --set``.

It is the canonical form of a card, indented; every field of ``core.card.Card`` may stand in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from memcard.cards._dialect import Subject
from memcard.core.card import Card, from_dict


class MemcardSidecar:
    """A card as ``Card.to_dict`` gives it."""

    title = "memcard's sidecar, the user's own words"
    source = "docs/cards.md"
    trust = 100
    suffix = ".memcard.json"

    def read(self, subject: Subject) -> Card | None:
        """Return what the user said; what is no lawful value is left out and noted."""
        said = subject.json(self.suffix)
        if said is None:
            return None
        name = subject.named(self.suffix) or self.suffix
        card, faults = from_dict(said, where=name)
        notes = tuple(f"{name}: {fault} It is left out." for fault in faults)
        return replace(card, origin={}, notes=notes).said_by("memcard_sidecar")

    def write(self, card: Card, old: Mapping[str, Any]) -> dict[str, Any]:
        """Return the sidecar: the card as it is. Names that no card has stay where they were."""
        del old  # reading has put all of it into the card
        found = replace(card, origin={}, notes=()).to_dict()
        extra = dict(found.pop("extra", {}))
        foreign = extra.pop("memcard", {})
        return {**foreign, **found, **({"extra": extra} if extra else {})}


PLUGIN = MemcardSidecar()
