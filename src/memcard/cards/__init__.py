"""Dialects of metadata: what tools write into and beside a file, read into one card.

When two contradict each other the more trusted one counts, and the contradiction is noted. The order, the
number in each file: what a person entered beside the file (memcard, A1111, Lora-Manager, SwarmUI, Stability
Matrix), then what a site said (Civitai), then what stands in the file (memcard, ModelSpec, kohya), then what
is said of the whole folder (Hugging Face), last what one picture was made with. A guess yields to all of them.
"""

from __future__ import annotations

from pathlib import PurePath

from memcard.cards._dialect import (
    SIDECAR_BYTES,
    Dialect,
    Subject,
    Writer,
    json_object,
    names_in,
    read_text,
)
from memcard.core.card import Card, merge
from memcard.core.registry import Registry
from memcard.errors import UnsupportedError

__all__ = [
    "CARDS",
    "SIDECAR_BYTES",
    "Dialect",
    "Subject",
    "Writer",
    "json_object",
    "names_in",
    "read_card",
    "read_text",
    "trusted",
]

CARDS: Registry[Dialect] = Registry("memcard.cards")


def trusted() -> tuple[str, ...]:
    """Return the names of the dialects, the most trusted first."""
    return tuple(sorted(CARDS, key=lambda name: (-CARDS[name].trust, name)))


def read_card(subject: Subject) -> Card:
    """Return everything that is said about a checkpoint, in its header and beside it.

    Reads sidecars up to 2 MiB each. What is broken is a note on the card; nothing is raised for it.
    """
    found = [_read_one(name, subject) for name in trusted()]
    return merge([card for card in found if card is not None])


def _read_one(name: str, subject: Subject) -> Card | None:
    try:
        return CARDS[name].read(subject)
    except OSError as error:
        where = PurePath(error.filename or name).name
        return Card(notes=(f"{where}: {error.strerror or error}. It is not used.",))
    except UnsupportedError as error:
        return Card(notes=(str(error),))
    except ValueError as error:
        return Card(notes=(f"{error}. It is not used.",))
