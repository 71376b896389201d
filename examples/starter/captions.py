"""Say in words what a starter picture shows: object, style, background.

One sentence has many forms, so that a prompt need not be typed in one way. A caption may leave the
style out ("a red apple"): then any style may answer, and the seed decides.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

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
OTHER_NAMES: dict[str, tuple[str, ...]] = {
    "airplane": ("plane",),
    "alarm clock": ("clock",),
    "automobile": ("car", "red car"),
    "beer mug": ("beer",),
    "birthday cake": ("cake",),
    "blue heart": ("heart in blue",),
    "cheese wedge": ("cheese",),
    "cherry blossom": ("pink flower", "flower"),
    "chicken": ("hen",),
    "Christmas tree": ("xmas tree",),
    "clown face": ("clown",),
    "cow face": ("cow",),
    "crescent moon": ("moon",),
    "deciduous tree": ("tree",),
    "doughnut": ("donut",),
    "dragon face": ("dragon",),
    "envelope": ("letter",),
    "evergreen tree": ("pine tree", "fir"),
    "fire": ("flame",),
    "fire engine": ("fire truck",),
    "four leaf clover": ("clover",),
    "french fries": ("fries",),
    "gem stone": ("diamond", "gem"),
    "grinning face": ("smiley", "happy face"),
    "hamburger": ("burger",),
    "honeybee": ("bee",),
    "horse face": ("horse",),
    "hot beverage": ("coffee", "cup of tea"),
    "house": ("home",),
    "jack-o-lantern": ("pumpkin",),
    "lady beetle": ("ladybug",),
    "locomotive": ("train",),
    "maple leaf": ("leaf",),
    "monkey face": ("monkey",),
    "motorcycle": ("motorbike",),
    "musical note": ("music note",),
    "open book": ("book",),
    "palm tree": ("palm",),
    "pig face": ("pig",),
    "rabbit face": ("rabbit", "bunny"),
    "red apple": ("apple",),
    "red heart": ("heart",),
    "rocket": ("spaceship",),
    "rose": ("red rose",),
    "sailboat": ("boat",),
    "smiling face with sunglasses": ("cool face",),
    "soccer ball": ("football",),
    "t-shirt": ("shirt",),
    "teddy bear": ("teddy",),
    "television": ("tv",),
    "tiger face": ("tiger",),
    "top hat": ("hat",),
    "turtle": ("tortoise",),
    "wrapped gift": ("gift", "present"),
}
STYLED = (
    "{style} of {a}{thing}",
    "{a}{thing}, {style}",
    "{style} of {thing}",
    "{thing}, {style}",
    "{a}{thing} in {style} style",
)
TRAILING = ("{thing}, {style}", "{a}{thing}, {style}")
PLAIN = ("{a}{thing}", "{thing}")
BEHIND = ("{text}, {colour} background",) * 3 + ("{text} on a {colour} background",)
NO_ARTICLE = ("glasses", "scissors", "grapes", "cherries", "french fries", "fries", "sushi")


def article(thing: str) -> str:
    """Return "a ", "an " or nothing, as the object wants."""
    if thing in NO_ARTICLE:
        return ""
    return "an " if thing[0] in "aeio" or thing.startswith("umb") else "a "


def caption(
    rng: random.Random,
    thing: str,
    style: str,
    colour: str | None,
    *,
    plain: float = 0.12,
    empty: float = 0.10,
    forms: Sequence[str] = STYLED,
) -> str:
    """Draw one caption.

    Args:
        rng: the source of chance.
        thing: the object; a fifth of the captions use another name of it, if it has one.
        style: the style word.
        colour: background named in the caption; None leaves it unsaid, which means white.
        plain: share of captions without a style.
        empty: share of empty captions, which classifier-free guidance needs.
        forms: of captions with a style.
    """
    chance = rng.random()
    if chance < empty:
        return ""
    form = rng.choice(PLAIN if chance < empty + plain else forms)
    if rng.random() < 0.2:
        thing = rng.choice(OTHER_NAMES.get(thing, (thing,)))
    thing = thing.lower()
    text = form.format(a=article(thing), thing=thing, style=style)
    return rng.choice(BEHIND).format(text=text, colour=colour) if colour else text
