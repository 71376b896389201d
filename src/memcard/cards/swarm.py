"""SwarmUI's ``.swarm.json``: ModelSpec's keys beside the file, for those who leave its header alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memcard.cards import _modelspec
from memcard.cards._dialect import Subject
from memcard.cards._take import Taker
from memcard.core.card import Card

_SPEC = ("title", "description", "author", "license", "thumbnail", "resolution", "trigger_phrase")


class Swarm:
    """A JSON object of ``modelspec.*`` keys; older ones have no prefix."""

    title = "SwarmUI's sidecar (ModelSpec beside the file)"
    source = "https://github.com/mcmonkeyprojects/SwarmUI src/Text2Image/T2IModelHandler.cs"
    trust = 80
    suffix = ".swarm.json"

    def read(self, subject: Subject) -> Card | None:
        """Return what the sidecar says; a list of tags is as good as text with commas."""
        said = subject.json(self.suffix)
        if said is None or not self._is_ours(said):
            return None
        found = {key.removeprefix(_modelspec.PREFIX): value for key, value in said.items()}
        taker = Taker("swarm", found)
        _modelspec.take(taker, subject.named(self.suffix) or "")
        sides = [taker.left.get(f"standard_{side}") for side in ("width", "height")]
        if "settings.size" not in taker.fields and all(sides):
            taker.put("settings.size", "x".join(map(str, sides)), said_as="standard_width")
        return taker.card()

    def write(self, card: Card, old: Mapping[str, Any]) -> dict[str, Any]:
        """Return the sidecar with the card's fields in it."""
        return {**old, **_modelspec.entries(card)}

    @staticmethod
    def _is_ours(said: Mapping[str, Any]) -> bool:
        return any(key.startswith(_modelspec.PREFIX) or key in _SPEC for key in said)


PLUGIN = Swarm()
