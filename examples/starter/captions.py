"""Say in words what a starter picture shows: object, style, background.

One sentence has many forms, so that a prompt need not be typed in one way. A caption may leave the
style out ("a red apple"): then any style may answer, and the seed decides.
"""

from __future__ import annotations

import random

COLOURS: dict[str, tuple[int, int, int]] = {
    "white": (255, 255, 255),
    "black": (16, 16, 16),
    "red": (220, 40, 40),
    "orange": (255, 150, 40),
    "yellow": (250, 225, 70),
    "green": (60, 170, 80),
    "blue": (50, 100, 220),
    "sky blue": (150, 205, 245),
    "purple": (130, 70, 190),
    "pink": (250, 160, 200),
    "gray": (150, 150, 150),
    "brown": (130, 85, 50),
}
STYLED = ("{style} of {a}{thing}", "{a}{thing}, {style}", "{style} of {thing}", "{thing}, {style}")
PLAIN = ("{a}{thing}", "{thing}")
NO_ARTICLE = (
    "glasses",
    "scissors",
    "grapes",
    "cherries",
    "french fries",
    "sushi",
    "popcorn",
    "fire",
)


def article(thing: str) -> str:
    """Return "a ", "an " or nothing, as the object wants."""
    if thing in NO_ARTICLE:
        return ""
    return "an " if thing[0] in "aeio" or thing.startswith("umb") else "a "


def sentence(form: str, thing: str, style: str, colour: str | None) -> str:
    """Fill one form; a colour of None leaves the background unsaid, which means white."""
    thing = thing.lower()
    text = form.format(a=article(thing), thing=thing, style=style)
    return text if colour is None else f"{text}, {colour} background"


def caption(
    rng: random.Random,
    thing: str,
    style: str,
    colour: str | None,
    *,
    plain: float = 0.12,
    empty: float = 0.10,
) -> str:
    """Draw one caption.

    Args:
        rng: the source of chance.
        thing: the object.
        style: the style word.
        colour: background named in the caption, None to leave it out.
        plain: share of captions without a style.
        empty: share of empty captions, which classifier-free guidance needs.
    """
    chance = rng.random()
    if chance < empty:
        return ""
    forms = PLAIN if chance < empty + plain else STYLED
    return sentence(rng.choice(forms), thing, style, colour)
