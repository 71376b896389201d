"""Taking a foreign object apart: known fields become a card, the rest is kept as it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import unescape
from typing import Any, Final

from memcard.core import card_fields
from memcard.core.card import Card, check
from memcard.errors import UsageError

_BLOCKS: Final = frozenset({"p", "br", "div", "li", "ul", "ol", "h1", "h2", "h3", "h4", "tr", "hr"})
_HIDDEN: Final = frozenset({"script", "style"})
_TAG: Final = re.compile(r"(<[a-zA-Z/!][^<>]*>)")
_TAG_NAME: Final = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*)")


class Taker:
    """Fills a card from a foreign object. What was not taken, or makes no sense, goes to ``extra``.

    Args:
        dialect: name under which to keep the rest.
        said: the object; it is not changed.
    """

    def __init__(self, dialect: str, said: Mapping[str, Any]) -> None:
        self.dialect = dialect
        self.left = dict(said)
        self.fields: dict[str, Any] = {}
        self.notes: list[str] = []
        self.guessed: list[str] = []

    def take(self, field: str, *keys: str) -> None:
        """Give ``field`` the first of these values that is one; it leaves the rest."""
        for key in keys:
            value = self.left.get(key)
            if value is None or value in ("", [], {}):
                self.left.pop(key, None)  # says nothing
            elif field not in self.fields and self.put(field, value, said_as=key):
                del self.left[key]

    def put(self, field: str, value: Any, *, said_as: str = "", guess: bool = False) -> bool:
        """Set a field if it has no value yet. False: the value makes no sense; it is noted."""
        if field in self.fields:
            return True
        try:
            self.fields[field] = check(field, value)
        except UsageError as error:
            self.notes.append(f"{self.dialect}: {said_as or field} {error}; it is left out.")
            return False
        if guess:
            self.guessed.append(field)
        return True

    def put_good(self, field: str, values: list[Any]) -> None:
        """Set a list to those of ``values`` that are lawful; the others are noted."""
        good = []
        for value in values[: card_fields.LIST_MOST]:
            try:
                good += check(field, [value])
            except UsageError as error:
                self.notes.append(f"{self.dialect}: one of {field} {error}; it is left out.")
        if good:
            self.fields[field] = tuple(dict.fromkeys((*self.fields.get(field, ()), *good)))

    def words(self, field: str, *keys: str) -> None:
        """Give ``field`` the words of the first of these that has any: a list, or text with commas."""
        for key in keys:
            value = self.left.get(key)
            if isinstance(value, str):
                value = split(value)
            if isinstance(value, list):
                value = [item for item in value if isinstance(item, str) and item.strip()]
            if not value:
                if self.left.get(key) in ("", [], None):
                    self.left.pop(key, None)
            elif field not in self.fields and self.put(field, value, said_as=key):
                del self.left[key]

    def html(self, field: str, *keys: str) -> None:
        """As ``take`` for texts of web pages: the card gets plain text, ``extra`` keeps the page's."""
        for key in keys:
            value = self.left.get(key)
            if value in ("", None):
                self.left.pop(key, None)
            elif field not in self.fields and isinstance(value, str):
                found = html_text(value)
                if found and self.put(field, found, said_as=key) and found == value.strip():
                    del self.left[key]

    def number(self, field: str, key: str) -> None:
        """As ``take`` for a number that tools write as 0 when it is not set."""
        if self.left.get(key) in (0, "0", "None"):
            del self.left[key]
        self.take(field, key)

    def drop(self, *keys: str) -> None:
        """Leave out what is about this machine, or follows from what was taken."""
        for key in keys:
            self.left.pop(key, None)

    def card(self) -> Card | None:
        """Return the card; None if there is nothing on it."""
        rest = {key: value for key, value in self.left.items() if value not in (None, "", [], {})}
        if not self.fields and not rest:
            return None
        parts: dict[str, Any] = {}
        for name, value in self.fields.items():
            part, _, key = name.partition(".")
            if key:
                parts.setdefault(part, {})[key] = value
            else:
                parts[part] = value
        if rest:
            parts["extra"] = {self.dialect: card_fields.plain(rest)}
        card = Card(**parts, notes=tuple(self.notes))
        return card.said_by(self.dialect, guessed=self.guessed)


def split(text: str) -> list[str]:
    """Return the words of a comma-separated list."""
    return [part for part in (p.strip() for p in text.replace("\n", ",").split(",")) if part]


def section(value: object) -> dict[str, Any]:
    """Return an object inside another; {} if it is none."""
    return dict(value) if isinstance(value, Mapping) else {}


def html_text(page: str) -> str:
    """Return the text of a description as sites write them; plain text comes back as it is.

    A list of tags, no parser: the time grows with the length, whatever the page tries (html.parser needed
    the square of it for some).
    """
    if "<" not in page and "&" not in page:
        return page.strip()
    parts: list[str] = []
    hidden = ""
    for i, piece in enumerate(_TAG.split(page)):
        name = _TAG_NAME.match(piece) if i % 2 else None
        tag, closes = (name[2].lower(), bool(name[1])) if name else ("", False)
        if hidden:
            hidden = "" if closes and tag == hidden else hidden
        elif tag in _HIDDEN and not closes:
            hidden = tag
        elif tag in _BLOCKS:
            parts.append("" if closes and tag == "li" else "\n- " if tag == "li" else "\n")
        elif i % 2 == 0:
            parts.append(" ".join(f"|{unescape(piece)}|".split())[1:-1])
    lines = [" ".join(line.split()) for line in "".join(parts).split("\n")]
    kept = [line for i, line in enumerate(lines) if line or (i and lines[i - 1])]
    return "\n".join(kept).strip()
