"""``memcard.card`` in the header of a file that memcard made: settings, kind, license, parents."""

from __future__ import annotations

from dataclasses import replace

from memcard.cards._dialect import SIDECAR_BYTES, Subject, json_object
from memcard.core.card import Card, from_dict

_KEY = "memcard.card"


class MemcardMetadata:
    """A JSON object in the metadata; also older ones, whose other fields are kept in ``extra``."""

    title = "memcard's own metadata of the file"
    source = "docs/spec/recipe.md"
    trust = 55

    def read(self, subject: Subject) -> Card | None:
        """Return what the file was given when it was made."""
        text = subject.metadata.get(_KEY)
        if text is None:
            return None
        if len(text) > SIDECAR_BYTES:
            raise ValueError(f"{_KEY}: is larger than {SIDECAR_BYTES} bytes")
        try:
            said = json_object(text)
        except ValueError as error:
            raise ValueError(f"{_KEY}: {error}") from None
        card, faults = from_dict(said, where=_KEY)
        extra = dict(card.extra)
        if "memcard" in extra:
            extra["memcard_metadata"] = extra.pop("memcard")
        notes = tuple(f"{_KEY}: {fault} It is left out." for fault in faults)
        # Whoever wrote the file cannot say that somebody else said it.
        card = replace(card, extra=extra, origin={}, notes=notes)
        if (card.license or "").lower() == "unknown":
            card = replace(card, license=None)  # a merge writes it where its parents disagree
        return card.said_by("memcard_metadata")


PLUGIN = MemcardMetadata()
