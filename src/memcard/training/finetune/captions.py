"""What the text encoder is told of a picture each time it is seen: trigger word, dropout, shuffling.

A prompt is a function of (seed, epoch, example) alone, so a resumed run says the same words.

Source: Ho and Salimans 2022, arXiv:2207.12598 (captions left out now and then make guidance work).
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from memcard.errors import UsageError


@dataclass(frozen=True, slots=True)
class Captions:
    """How captions become prompts.

    Attributes:
        trigger: words put before every caption that does not have them already; "" for none.
        dropout: share of prompts that are empty, 0..1.
        shuffle: mix the parts between commas; for lists of tags, not for sentences.
        keep: how many parts stay in front when shuffling, the trigger not counted.
        seed: of all chance here.
    """

    trigger: str = ""
    dropout: float = 0.0
    shuffle: bool = False
    keep: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.dropout <= 1:
            raise UsageError(f"caption dropout {self.dropout} is not in 0..1.")
        if self.keep < 0:
            raise UsageError(f"keep {self.keep} is negative; 0 keeps no part in front.")

    def fixed(self, caption: str) -> str:
        """Return the prompt without any chance."""
        if not self.trigger or _has(caption, self.trigger):
            return caption
        return f"{self.trigger}, {caption}" if caption else self.trigger

    def prompt(self, caption: str, epoch: int, index: int) -> str:
        """Return the prompt of example ``index`` in ``epoch``."""
        if not (self.dropout or self.shuffle):
            return self.fixed(caption)
        chance = random.Random(f"caption {self.seed} {epoch} {index}")  # noqa: S311  # no secret
        if chance.random() < self.dropout:
            return ""
        if self.shuffle:
            caption = self._mixed(caption, chance)
        return self.fixed(caption)

    def _mixed(self, caption: str, chance: random.Random) -> str:
        tags = [part.strip() for part in caption.split(",") if part.strip()]
        rest = tags[self.keep :]
        chance.shuffle(rest)
        return ", ".join([*tags[: self.keep], *rest])


def _has(caption: str, words: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", caption, re.IGNORECASE) is not None
