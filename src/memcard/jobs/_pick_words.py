"""How well the words of a purpose fit what is said about a checkpoint: BM25 over weighted fields.

Source: Robertson and Zaragoza 2009, "The probabilistic relevance framework: BM25 and beyond", section 3.6
(fields are added up with their weights before saturation).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Final

from memcard.store.index_words import fold, name_words

_K1, _B = 1.2, 0.75  # the usual values of that paper
_SHORTEST: Final = 4  # letters; in shorter words an s at the end is seldom a plural
# What a field weighs: what a maker chose to be found by above what he wrote along the way.
WEIGHTS: Final[Mapping[str, float]] = {
    "name": 3.0,
    "title": 3.0,
    "tags": 3.0,
    "trigger words": 3.0,
    "purpose": 3.0,
    "your remarks": 2.0,
    "learnt use": 2.0,
    "description": 1.0,
    "base model": 1.0,
    "family": 1.0,
}
_NO_WORDS: Final = frozenset(
    [
        "a",
        "an",
        "and",
        "are",
        "as",
        "at",
        "be",
        "by",
        "can",
        "do",
        "for",
        "from",
        "good",
        "great",
        "i",
        "in",
        "is",
        "it",
        "like",
        "make",
        "me",
        "model",
        "of",
        "on",
        "or",
        "picture",
        "pictures",
        "some",
        "style",
        "that",
        "the",
        "to",
        "want",
        "with",
    ]
)


@dataclass(frozen=True, slots=True)
class Fit:
    """How well a purpose fits one text.

    Attributes:
        score: 0 if no word of it is there.
        where: word of the purpose to the fields that have it.
    """

    score: float
    where: Mapping[str, tuple[str, ...]]


def wanted_words(purpose: str) -> tuple[str, ...]:
    """Return the words that tell checkpoints apart, each once; a plural as its singular."""
    found = re.findall(r"[^\W_]+", fold(purpose))
    kept = [word for word in found if word not in _NO_WORDS]
    return tuple(dict.fromkeys(_singular(word) for word in kept or found))


def _singular(word: str) -> str:
    plural = len(word) > _SHORTEST and word.endswith("s") and not word.endswith("ss")
    return word[:-1] if plural else word


def fits(
    words: Sequence[str],
    texts: Sequence[Mapping[str, str]],
    *,
    total: int,
    having: Mapping[str, int],
) -> list[Fit]:
    """Return how well words fit each of several texts.

    Args:
        words: from ``wanted_words``; each stands for every word that begins with it.
        texts: by field, names as in ``WEIGHTS``.
        total: how many checkpoints there are in all.
        having: in how many of them each word is; rare words count more.
    """
    counted = [{name: _counts(text, words) for name, text in t.items()} for t in texts]
    lengths = [
        sum(WEIGHTS[name] * count for name, (count, _) in fields.items()) for fields in counted
    ]
    usual = sum(lengths) / len(lengths) if lengths else 1.0
    found = []
    for fields, length in zip(counted, lengths, strict=True):
        score, where = 0.0, {}
        room = 1 - _B + _B * length / (usual or 1.0)
        for word in words:
            places = tuple(name for name, (_, hits) in fields.items() if hits[word])
            often = sum(WEIGHTS[name] * fields[name][1][word] for name in places)
            if often:
                n = having.get(word, 0)
                rare = log(1 + (total - n + 0.5) / (n + 0.5)) if n <= total else 0.0
                score += rare * often * (_K1 + 1) / (often + _K1 * room)
                where[word] = places
        found.append(Fit(score, where))
    return found


def _counts(text: str, words: Sequence[str]) -> tuple[int, Counter[str]]:
    there = name_words([text]).split()
    hits = Counter({word: sum(t.startswith(word) for t in there) for word in words})
    return len(there), hits
