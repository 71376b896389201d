"""Emphasis in a prompt: ``(more)``, ``[less]``, ``(as much:1.3)``, and ``BREAK``.

Round brackets multiply the weight of what they hold by 1.1, square ones divide by it, a number after a
colon takes the place of the 1.1. Round and square brackets are counted apart, so that those of one kind
may overlap the other kind. A bracket that is never closed holds all that follows; one that was never
opened is a character. A backslash makes a character of what follows it.

Source: the wiki of stable-diffusion-webui, "Features", section "Attention/emphasis".
"""

from __future__ import annotations

import re
from typing import Final

from memcard.generation.words import BREAK, Words

MORE: Final = 1.1
LESS: Final = 1 / 1.1
LIMIT: Final = (
    1000.0  # of a weight; far beyond what leaves a picture, and finite however deep it is nested
)
_DEEPEST: Final = 100  # brackets open at one time; more of them are characters
_BREAK: Final = re.compile(r"\bBREAK\b")
_TOKEN: Final = re.compile(
    r"""
    \\(?P<escaped>.?)
    | :\s*(?P<number>[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))\s*\)
    | (?P<bracket>[()\[\]])
    | (?P<text>[^\\()\[\]:]+|:)
    """,
    re.VERBOSE | re.DOTALL,
)


def weighted(text: str) -> Words:
    """Read the emphasis in a text that has no other marks left; any text is right.

    Neighbours of one weight become one piece. Weights lie in -1000..1000.
    """
    reading = _Reading()
    for token in _TOKEN.finditer(text):
        if token["escaped"] is not None:
            reading.add(token["escaped"])
        elif token["number"] is not None:
            reading.close_at(float(token["number"]), token[0])
        elif token["bracket"] is not None:
            reading.bracket(token["bracket"])
        else:
            reading.add_with_breaks(token["text"])
    return reading.words()


class _Reading:
    """Pieces so far, and where brackets were opened."""

    def __init__(self) -> None:
        self.pieces: list[tuple[str, float]] = []
        self.round: list[int] = []  # index of the first piece inside
        self.square: list[int] = []

    def add(self, text: str) -> None:
        if text and self.goes_on():
            self.pieces[-1] = (self.pieces[-1][0] + text, 1.0)
        elif text:
            self.pieces.append((text, 1.0))

    def goes_on(self) -> bool:
        """Whether no bracket and no break lies between the last piece and what follows."""
        here = [len(self.pieces)]
        opened = self.round[-1:] == here or self.square[-1:] == here
        if opened or not self.pieces:
            return False
        text, weight = self.pieces[-1]
        return weight == 1 and text != BREAK

    def add_with_breaks(self, text: str) -> None:
        first, *more = _BREAK.split(text)
        self.add(first.rstrip() if more else first)
        for i, part in enumerate(more, 1):
            self.pieces.append((BREAK, 1.0))
            self.add(part.strip() if i < len(more) else part.lstrip())

    def bracket(self, bracket: str) -> None:
        opened = self.round if bracket in "()" else self.square
        if bracket in "([" and len(opened) < _DEEPEST:
            opened.append(len(self.pieces))
        elif bracket in ")]" and opened:
            self.multiply(opened.pop(), MORE if bracket == ")" else LESS)
        else:
            self.add(bracket)

    def close_at(self, weight: float, text: str) -> None:
        if self.round:
            self.multiply(self.round.pop(), weight)
        else:
            self.add_with_breaks(text)

    def multiply(self, first: int, factor: float) -> None:
        for i in range(first, len(self.pieces)):
            piece, weight = self.pieces[i]
            self.pieces[i] = (piece, max(-LIMIT, min(LIMIT, weight * factor)))

    def words(self) -> Words:
        for first in self.round:
            self.multiply(first, MORE)
        for first in self.square:
            self.multiply(first, LESS)
        joined: list[tuple[str, float]] = []
        for text, weight in self.pieces:
            if text == BREAK:
                joined.append((BREAK, 1.0))
            elif joined and joined[-1][0] != BREAK and joined[-1][1] == weight:
                joined[-1] = (joined[-1][0] + text, weight)
            else:
                joined.append((text, weight))
        return Words(tuple(joined) or (("", 1.0),))
