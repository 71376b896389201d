"""What people say about a checkpoint: title, tags, trigger words, settings, license, and who said it.

A card is put together from many places that may contradict each other. Every field remembers its origin,
a contradiction becomes a note, and what has no field here is kept under the name of the dialect it came in.

The canonical JSON (``to_json``) is one line with sorted keys; the same card gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

from memcard.core import card_fields as values
from memcard.errors import CorruptError, UnsupportedError, UsageError

VERSION: Final = 1
_MARK: Final = "memcard_card"
_MAPS: Final = ("settings", "permissions", "links", "hashes")
# Two people describe one thing in two ways, and upload it on two days: no contradiction.
_VARIED: Final = frozenset({"description", "date", "version", "kind", "purpose", "remarks"})
_SHOWN: Final = 60  # characters of a value in a note
GUESS: Final = " (guess)"


@dataclass(frozen=True, slots=True)
class Card:
    """Everything said about one checkpoint; each field may be missing.

    Attributes:
        title: how people call it.
        description: what it is, in plain text.
        author: who made it.
        date: when it was made.
        version: the maker's name of this version.
        kind: what sort of file the source says it is; ``inspect`` finds out for itself.
        purpose: what it is for and how to use it.
        remarks: the user's own notes.
        base_model: what it was made from or runs on.
        license: name, link or full text, as stated.
        tags: words to find it by.
        trigger_words: words that wake what it learnt.
        previews: pictures: the name of a file beside the checkpoint, ``FILE#KEY`` for one inside a
            file's metadata, or a web address.
        merged_from: names of its parents.
        settings: recommended ``cfg``, ``steps``, …; the names are in ``card_fields.SETTINGS``.
        permissions: Civitai's four flags under their own names; a missing one is unknown.
        links: name to web address.
        hashes: digests *claimed* for the file, lower-case hex; nothing was verified.
        origin: name of the dialect for each field; keys of maps as ``settings.cfg``. Ends in
            ``(guess)`` where the dialect does not say it but it follows from what it says.
        extra: dialect name to everything it said for which there is no field here.
        notes: contradictions and what could not be read; one sentence each.
    """

    title: str | None = None
    description: str | None = None
    author: str | None = None
    date: str | None = None
    version: str | None = None
    kind: str | None = None
    purpose: str | None = None
    remarks: str | None = None
    base_model: str | None = None
    license: str | None = None
    tags: tuple[str, ...] = ()
    trigger_words: tuple[str, ...] = ()
    previews: tuple[str, ...] = ()
    merged_from: tuple[str, ...] = ()
    settings: Mapping[str, str | int | float] = field(default_factory=dict)
    permissions: Mapping[str, bool | tuple[str, ...]] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)
    origin: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def stated(self) -> Iterator[tuple[str, Any]]:
        """Yield every field that has a value, under the names ``origin`` uses."""
        for name in (*values.TEXTS, *values.LISTS):
            if value := getattr(self, name):
                yield name, value
        for name in _MAPS:
            for key, value in getattr(self, name).items():
                yield f"{name}.{key}", value

    def said_by(self, dialect: str, *, guessed: Sequence[str] = ()) -> Card:
        """Return the card with ``dialect`` as the origin of all that has none yet."""
        names = {name: dialect + GUESS * (name in guessed) for name, _ in self.stated()}
        return replace(self, origin={**names, **self.origin})

    def to_dict(self) -> dict[str, Any]:
        """Return the card as JSON values; what is empty is left out."""
        found: dict[str, Any] = {_MARK: VERSION}
        for part in fields(self):
            if value := getattr(self, part.name):
                found[part.name] = values.plain(value)
        return found

    def to_json(self) -> str:
        """Return the canonical text: one line, keys sorted, no blanks."""
        return json.dumps(self.to_dict(), ensure_ascii=False, sort_keys=True, separators=(",", ":"))

    @staticmethod
    def from_json(text: str, *, where: str = "card") -> Card:
        """Read what ``to_json`` wrote, or a person by hand.

        Args:
            text: JSON.
            where: what to call it in an error.

        Raises:
            CorruptError: not JSON, or values that no card has; names all of them.
            UnsupportedError: written by a later version.
        """
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise CorruptError(f"{where}: is not JSON: {error}. Write it again.") from None
        if not isinstance(found, dict):
            raise CorruptError(f"{where}: is not a JSON object. Write it again.")
        card, faults = from_dict(found, where=where)
        if faults:
            raise CorruptError(
                f"{where}: {' '.join(faults[:5])} Correct these fields, or remove them.",
                faults=faults,
            )
        return card


def from_dict(found: Mapping[str, Any], *, where: str = "card") -> tuple[Card, tuple[str, ...]]:
    """Read a card from JSON values; what is no lawful value is left out and named.

    Returns:
        The card, and one sentence for every value that was left out. Names that no card has are kept in
        ``extra`` under ``memcard``.

    Raises:
        UnsupportedError: written by a later version.
    """
    version = found.get(_MARK, VERSION)
    if not isinstance(version, int) or version > VERSION:
        raise UnsupportedError(
            f"{where}: is a card of version {version!r}; this memcard knows {VERSION}. "
            "Update memcard to read it."
        )
    filled = _Filler()
    for name, value in found.items():
        if name != _MARK:
            filled.take(name, value)
    return filled.card(), tuple(filled.faults)


class _Filler:
    """Gathers lawful values and the faults of the others."""

    def __init__(self) -> None:
        self.fields: dict[str, Any] = {}
        self.extra: dict[str, dict[str, Any]] = {}
        self.faults: list[str] = []

    def card(self) -> Card:
        if self.extra:
            self.fields["extra"] = self.extra
        return Card(**self.fields)

    def take(self, name: str, value: Any) -> None:
        if name == "extra":
            self._extra(value)
        elif name == "origin":
            self._each(name, value, lambda _, item: values.text(item, values.WORD_MOST))
        elif name in _MAPS:
            self._each(name, value, lambda key, item: check(f"{name}.{key}", item))
        elif name == "notes" or name in values.TEXTS or name in values.LISTS:
            try:
                self.fields[name] = values.words(value) if name == "notes" else check(name, value)
            except UsageError as error:
                self.faults.append(f"{name} {error}.")
        else:
            self.extra.setdefault("memcard", {})[values.clean_text(name)] = values.plain(value)

    def _each(self, name: str, value: Any, one: Any) -> None:
        if not isinstance(value, Mapping):
            self.faults.append(f"{name} is not an object.")
            return
        found = self.fields.setdefault(name, {})
        for key, item in value.items():
            try:
                found[key] = one(key, item)
            except UsageError as error:
                self.faults.append(f"{name}.{key} {error}.")

    def _extra(self, value: Any) -> None:
        if not isinstance(value, Mapping):
            self.faults.append("extra is not an object.")
            return
        for dialect, said in value.items():
            if values.is_key(dialect) and isinstance(said, Mapping):
                self.extra.setdefault(dialect, {}).update(values.plain(said))
            else:
                self.faults.append(f"extra.{dialect} is not an object under a plain name.")


def check(name: str, value: object) -> Any:
    """Return the value of one field in its own form.

    Args:
        name: as in ``origin``: ``title``, ``settings.cfg``, ``links.home``.
        value: a JSON value.

    Raises:
        UsageError: no such field, or not a value of it; the reason reads on after the name.
    """
    part, _, key = name.partition(".")
    if part in values.TEXTS and not key:
        return values.text(value)
    if part in values.LISTS and not key:
        return values.words(value, values.preview if part == "previews" else None)
    if part == "settings" and key in values.SETTINGS:
        return values.setting(key, value)
    if part == "permissions" and key in values.PERMISSIONS:
        return values.permission(key, value)
    if part == "hashes" and key in values.HASHES:
        return values.hash_value(key, value)
    if part == "links" and values.is_key(key):
        return values.link(value)
    raise UsageError("is no field of a card")


def merge(cards: Sequence[Card]) -> Card:
    """Return one card of several, the most trusted first.

    A text, a list or a setting is taken whole from the first card that states it; a guess yields to every
    card that says it outright. Previews are gathered from all. What contradicts it becomes a note.
    """
    ranked = [*cards]
    chosen: dict[str, tuple[Any, str]] = {}
    notes = [note for card in ranked for note in card.notes]
    for guessing in (False, True):
        for card in ranked:
            for name, value in card.stated():
                origin = card.origin.get(name, "unknown")
                if origin.endswith(GUESS) is guessing:
                    _choose(chosen, name, value, origin, notes)
    extra: dict[str, dict[str, Any]] = {}
    for card in reversed(ranked):
        for dialect, said in card.extra.items():
            extra.setdefault(dialect, {}).update(said)
    parts = _parts({name: value for name, (value, _) in chosen.items()})
    order = [name for name, _ in Card(**parts).stated()]
    return Card(
        **parts,
        origin={name: chosen[name][1] for name in order},
        extra={name: extra[name] for name in sorted(extra)},
        notes=tuple(dict.fromkeys(notes))[: values.LIST_MOST],
    )


def _choose(
    chosen: dict[str, tuple[Any, str]], name: str, value: Any, origin: str, notes: list[str]
) -> None:
    if name not in chosen:
        chosen[name] = value, origin
        return
    first, by = chosen[name]
    if name == "previews":
        chosen[name] = (
            tuple(dict.fromkeys(first + value)),
            by if by == origin else f"{by}, {origin}",
        )
    elif name in _VARIED or name in values.LISTS or origin.endswith(GUESS):
        return
    elif _same(first) != _same(value):
        notes.append(f"{name}: {by} says {_brief(first)}, {origin} says {_brief(value)}.")


def _parts(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return constructor arguments from names as ``origin`` has them."""
    found: dict[str, Any] = {}
    for name, value in flat.items():
        part, _, key = name.partition(".")
        if key:
            found.setdefault(part, {})[key] = value
        else:
            found[part] = value
    return found


def _same(value: Any) -> Any:
    """Return what two values are compared by: case and blanks tell no difference."""
    return " ".join(value.split()).casefold() if isinstance(value, str) else value


def _brief(value: Any) -> str:
    text = ", ".join(value) or "nothing" if isinstance(value, tuple) else str(value)
    shown = " ".join(text.split())
    return repr(shown if len(shown) <= _SHOWN else shown[: _SHOWN - 1] + "…")
