"""A prompt as a text encoder is given it: pieces of text, each with its emphasis.

``generation/prompt.py`` makes it of what the user writes; engines read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

BREAK: Final = "\x00"  # a piece that is only this fills the rest of a chunk of 77 tokens


@dataclass(frozen=True, slots=True)
class Words:
    """One prompt at one moment.

    Attributes:
        pieces: text and weight, in reading order; 1.0 is no emphasis. The text of all pieces together is
            the prompt, spaces included.
    """

    pieces: tuple[tuple[str, float], ...]

    @property
    def text(self) -> str:
        """The prompt without its weights, breaks as blanks."""
        return "".join(" " if text == BREAK else text for text, _ in self.pieces)

    @property
    def plain(self) -> bool:
        """Whether nothing is emphasised and nothing breaks: the text says it all."""
        return all(weight == 1 and text != BREAK for text, weight in self.pieces)


def plain(text: str) -> Words:
    """Return a prompt that is taken as it stands: brackets and colons are characters like others."""
    return Words(((text, 1.0),))


def joined(words: Sequence[Words]) -> Words:
    """Return several prompts one after another."""
    return Words(tuple(piece for one in words for piece in one.pieces))
