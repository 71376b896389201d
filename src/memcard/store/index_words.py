"""Words as the index knows them, so that a search finds the same with and without SQLite's FTS5.

A word of a query matches every word that begins with it: ``dream`` finds ``DreamShaper``. Names of
checkpoints are words run together, so ``dreamshaperXL10`` is found by ``xl10`` and ``10`` too. Case and
accents tell no difference.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Final

_WORD: Final = re.compile(r"[^\W_]+")
# Where a part of a run-together word begins: aB, a1, 1a, ABc
_PART: Final = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])")
_QUERY_WORDS: Final = 32


def fold(text: str) -> str:
    """Return a text without case and accents."""
    if text.isascii():
        return text.lower()
    parts = unicodedata.normalize("NFKD", text)
    return "".join(c for c in parts if not unicodedata.combining(c)).casefold()


def plain_words(texts: Iterable[str]) -> str:
    """Return the words of long texts, each once, with a blank before every one."""
    found: dict[str, None] = {}
    for text in texts:
        found.update(dict.fromkeys(_WORD.findall(fold(text))))
    return "".join(f" {word}" for word in found)


def name_words(texts: Iterable[str]) -> str:
    """As ``plain_words``, and from every part of a run-together word to its end as well."""
    found = dict.fromkeys(word for text in texts for word in _with_ends(text))
    return "".join(f" {word}" for word in found)


def _with_ends(text: str) -> Iterator[str]:
    for word in _WORD.findall(text):
        yield from _WORD.findall(fold(word))
        for boundary in _PART.finditer(word):
            yield from _WORD.findall(fold(word[boundary.start() :]))


def query_words(query: str) -> tuple[str, ...]:
    """Return the words to look for, each once; at most 32, more would only cost time."""
    return tuple(dict.fromkeys(_WORD.findall(fold(query))))[:_QUERY_WORDS]
