"""One file is one license: what it allows and asks, as data with its source and version.

People write licenses in many ways. ``find`` knows names, SPDX identifiers, links and Civitai's permissions,
and is strict otherwise: a name with anything beside it ("Apache 2.0, but not for money") is unknown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from memcard.core.license import License
from memcard.core.registry import Registry
from memcard.errors import NotFoundError, UsageError
from memcard.licenses import _civitai

LICENSES: Registry[License] = Registry("memcard.licenses")

_LONG: Final = 300  # characters; more is the text of a license, not its name
_URL: Final = re.compile(r"https?://[^\s<>()\[\]]+", re.IGNORECASE)
_TAILS: Final = re.compile(r"(/|/deed(\.\w+)?|/legalcode(\.\w+)?|\.html|\.txt)$")
_TITLE: Final = 10  # letters of a name that says something at the head of a long text


@dataclass(frozen=True, slots=True)
class Found:
    """The licenses a text names, all of which hold; and what a reader should know about the reading."""

    licenses: tuple[License, ...]
    note: str = ""


def find(text: str) -> Found:
    """Return what a license field says: a name, an SPDX id, ``A AND B``, a link, or ``civitai:…``.

    What is not understood is ``unknown``, with a note that quotes it.
    """
    stated = " ".join(text.split())
    if not stated:
        return Found((unknown_license(),))
    parts = [part for part in re.split(r"\s+AND\s+", stated) if part]
    if len(parts) > 1:
        found = [find(part) for part in parts]
        notes = dict.fromkeys(f.note for f in found if f.note)
        return Found(tuple(license_ for f in found for license_ in f.licenses), " ".join(notes))
    if stated.startswith(_civitai.PREFIX):
        try:
            return Found((_civitai.from_id(stated),))
        except UsageError as error:
            return Found((unknown_license(),), str(error))
    return _named(stated) or _linked(stated) or Found((unknown_license(),), _not_understood(stated))


def by_id(id_: str) -> License:
    """Return one license by its id, SPDX id or another name of it, ``civitai:…`` included.

    Raises:
        NotFoundError: memcard does not know it.
        UsageError: words after ``civitai:`` that are no permissions.
    """
    if id_.startswith(_civitai.PREFIX):
        return _civitai.from_id(id_)
    if found := _names().get(plain(id_)):
        return found
    known = sorted(license_.id for license_ in LICENSES.values())
    raise NotFoundError(
        f"no license {id_!r}. There are: {', '.join(known)}; and civitai:Image+Rent,credit,merges,same "
        "for the permissions of Civitai."
    )


def unknown_license() -> License:
    """Return the license of things of which none is known."""
    return LICENSES["unknown"]


def of_flags(flags: Mapping[str, Any]) -> License:
    """Return the license of Civitai's flags: ``allowNoCredit``, ``allowCommercialUse`` and so on."""
    return _civitai.from_flags(flags)


def of_base(name: str) -> License | None:
    """Return the license a well-known base model was published under.

    Args:
        name: of a repository, a file without its suffix, or a base model as Civitai calls it.
    """
    return _bases().get(plain(name))


def plain(name: str) -> str:
    """Return a name without what people vary: letter case, spaces, punctuation; ``+`` is kept."""
    return "".join(c for c in name.lower() if c.isalnum() or c == "+")


def _named(text: str) -> Found | None:
    key = plain(text)
    if license_ := _names().get(key):
        return Found((license_,))
    if license_ := _vague().get(key):
        read = f"{text!r} names no version; it is read as {license_.id} ({license_.version})."
        return Found((license_,), read)
    return None


def _linked(text: str) -> Found | None:
    """Understand a text that is a link, or a name with a link to the same license."""
    links = _URL.findall(text) or ([text] if "/" in text and " " not in text else [])
    found = {license_.id: license_ for link in links if (license_ := _links().get(_address(link)))}
    if len(found) != 1 or not links:
        return None
    (license_,) = found.values()
    rest = text
    for link in links:
        rest = rest.replace(link, "")
    if not plain(rest):
        return Found((license_,))
    named = _named(rest)
    return named if named and named.licenses == (license_,) else None


def _address(link: str) -> str:
    text = re.sub(r"^https?://", "", link.lower()).rstrip(".,;")
    while (shorter := _TAILS.sub("", text)) != text:
        text = shorter
    return text


def _not_understood(text: str) -> str:
    shown = text if len(text) <= _LONG else f"{text[:60]}… ({len(text)} characters)"
    head = plain(text[:_LONG])
    titles = [(len(k), x.id) for k, x in _names().items() if len(k) >= _TITLE and k in head]
    hint = f" If it is {max(titles)[1]} unchanged, say so with --license." if titles else ""
    return f"{shown!r} is no license memcard knows.{hint}"


def _entries(field: str) -> Iterator[tuple[str, License]]:
    for license_ in LICENSES.values():
        for text in getattr(license_, field):
            yield text, license_


@cache
def _names() -> Mapping[str, License]:
    found = {plain(text): license_ for text, license_ in _entries("names")}
    for license_ in LICENSES.values():
        texts = (license_.id, license_.title, license_.spdx or license_.id)
        found |= {plain(text): license_ for text in texts}
    return found


@cache
def _vague() -> Mapping[str, License]:
    return {plain(text): license_ for text, license_ in _entries("vague")}


@cache
def _links() -> Mapping[str, License]:
    sources = {_address(x.source): x for x in LICENSES.values()}
    return sources | {_address(text): license_ for text, license_ in _entries("links")}


@cache
def _bases() -> Mapping[str, License]:
    return {plain(text): license_ for text, license_ in _entries("bases")}
