"""ModelSpec in the header of the file: what its author says."""

from __future__ import annotations

from collections.abc import Mapping

from memcard.cards import _modelspec
from memcard.cards._dialect import Subject
from memcard.cards._take import Taker
from memcard.core.card import Card

_LONG = 10_000  # characters; what is longer and has no field stays in the file


class ModelSpec:
    """Keys ``modelspec.*`` of a file's metadata."""

    title = "ModelSpec metadata of the file"
    source = "https://github.com/Stability-AI/ModelSpec (1.0.1)"
    trust = 50

    def read(self, subject: Subject) -> Card | None:
        """Return what the header says."""
        found = {
            key.removeprefix(_modelspec.PREFIX): value
            for key, value in subject.metadata.items()
            if key.startswith(_modelspec.PREFIX)
        }
        taker = Taker("modelspec", found)
        _modelspec.take(taker, subject.path.name)
        taker.left = {key: text for key, text in taker.left.items() if len(text) <= _LONG}
        return taker.card()

    def entries(self, card: Card) -> Mapping[str, str]:
        """Return a card as metadata for a new file, ``modelspec.title`` and so on."""
        return _modelspec.entries(card)


PLUGIN = ModelSpec()
