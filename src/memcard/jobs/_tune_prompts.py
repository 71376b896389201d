"""What is painted to find settings: prompts of the user, of the card, or our own; some are held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from memcard.core.card import Card
from memcard.errors import FormatError, NotFoundError, UsageError

LEAST: Final = 3  # prompts; one of them is held out
_EVERY: Final = 3  # the third of every three prompts is held out
_MOST: Final = 48  # more prompts would be seen once each
_TRIGGERS: Final = 4
STARTER_OBJECTS: Final = (
    *("dog face", "cat face", "lion", "penguin", "octopus", "butterfly", "red apple", "banana"),
    *("pizza", "hamburger", "strawberry", "birthday cake", "rocket", "automobile", "house"),
    *("sailboat", "guitar", "robot", "ghost", "skull", "crown", "snowman", "rose", "red heart"),
)
_STARTER_STYLES: Final = ("3d render", "flat icon", "cartoon", "retro drawing")
# Many kinds of things, lights and distances; short, so that each word counts.
GENERAL: Final = (
    "portrait of an old fisherman, window light",
    "a red bicycle leaning on a brick wall",
    "a bowl of fruit on a wooden table",
    "a lighthouse on a cliff at sunset",
    "a grey cat sleeping on a blue sofa",
    "a city street in the rain at night, neon signs",
    "a snow-covered mountain behind a lake",
    "close-up of a bee on a yellow flower",
    "a young woman laughing, green background",
    "a steam train crossing a stone bridge",
    "a glass of orange juice with ice",
    "an astronaut riding a horse on a beach",
    "a white sailing boat on a calm sea",
    "two children building a sandcastle",
    "a medieval castle in morning fog",
    "a plate of pasta with basil, from above",
    "a black dog running through a meadow",
    "a small wooden cabin in an autumn forest",
    "a robot reading a newspaper in a cafe",
    "a market stall full of vegetables",
    "an owl on a branch under a full moon",
    "a vintage car parked in front of a cinema",
    "a dancer in a red dress on a dark stage",
    "a desert with one green cactus, blue sky",
)


@dataclass(frozen=True, slots=True)
class Prompts:
    """The prompts of a search.

    Attributes:
        search: settings are chosen by these.
        held_out: settings are checked on these; nothing is chosen by them.
        origin: where they are from, for people.
    """

    search: tuple[str, ...]
    held_out: tuple[str, ...]
    origin: str

    def rivals(self, prompt: str, count: int) -> tuple[str, ...]:
        """Return other prompts of the same side to tell a picture from, and no prompt at all."""
        side = self.held_out if prompt in self.held_out else self.search
        at = side.index(prompt)
        others = [side[(at + n) % len(side)] for n in range(1, len(side))]
        return (*others[:count], "")


def prompts_for(
    family: str, card: Card, given: Sequence[str], painted: Sequence[str] = ()
) -> Prompts:
    """Choose the prompts: given ones, else those of the card, else our own for the family.

    Args:
        family: of the checkpoint.
        card: its trigger words go into our own prompts.
        given: by the user.
        painted: prompts of its preview pictures.

    Raises:
        UsageError: fewer than ``LEAST`` different ones were given.
    """
    if given:
        return _split(tuple(dict.fromkeys(given)), "given")
    if len(set(painted)) >= LEAST:
        return _split(tuple(dict.fromkeys(painted)), "the card's previews")
    triggers = card.trigger_words[:_TRIGGERS]
    words = f" with its trigger words ({', '.join(triggers)})" if triggers else ""
    if family == "starter":
        styles = triggers or _STARTER_STYLES
        own = tuple(
            f"{styles[n % len(styles)]} of {_article(thing)} {thing}"
            for n, thing in enumerate(STARTER_OBJECTS)
        )
        return _split(own, f"the starter's 24 objects{words}")
    if triggers:
        own = tuple(f"{triggers[n % len(triggers)]}, {p}" for n, p in enumerate(GENERAL))
        return _split(own, f"24 general prompts{words}")
    return _split(GENERAL, "24 general prompts")


def read_prompts(path: str | Path) -> tuple[str, ...]:
    """Read prompts from a text file, one a line; empty lines and lines with # are passed over.

    Raises:
        NotFoundError: no such file.
        FormatError: it is no UTF-8 text.
    """
    place = Path(path).expanduser()
    if not place.is_file():
        raise NotFoundError(f"{place}: no such file. Give a text file with one prompt a line.")
    try:
        lines = place.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise FormatError(f"{place}: is not UTF-8 text ({error}). Save it as UTF-8.") from None
    return tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))


def _split(prompts: tuple[str, ...], origin: str) -> Prompts:
    if len(prompts) < LEAST:
        raise UsageError(
            f"{len(prompts)} prompts are too few: at least {LEAST} different ones are needed, because a "
            "third is held out to check the result. Give more, or none to use memcard's own."
        )
    prompts = prompts[:_MOST]
    held = prompts[_EVERY - 1 :: _EVERY]
    return Prompts(tuple(p for p in prompts if p not in held), held, origin)


def _article(thing: str) -> str:
    return "an" if thing[0] in "aeiou" else "a"
