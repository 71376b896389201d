"""Show what is said about a checkpoint, and write down what its user says; never into the file itself.

An edited header breaks the SHA-256 by which everyone knows a file, so all that is written here goes beside it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from memcard.cards import (
    CARDS,
    SIDECAR_BYTES,
    Subject,
    Writer,
    json_object,
    read_card,
    read_text,
)
from memcard.core import card_fields
from memcard.core.atomic import replacing
from memcard.core.card import Card, check
from memcard.core.progress import Listener, silent
from memcard.errors import CorruptError, FormatError, UsageError
from memcard.formats import open_file
from memcard.jobs._library_cards import kept_of, say
from memcard.jobs._library_refs import stored
from memcard.jobs.resolve import locate, starter_folder
from memcard.store.layout import Layout, exists
from memcard.store.refs import Version, find

if TYPE_CHECKING:
    from memcard.jobs._card_learn import Learnt

# What people ask for, and the plug-in that writes it.
WRITES: Final[Mapping[str, str]] = {"a1111": "a1111_sidecar", "modelspec-sidecar": "swarm"}
_OWN: Final = "memcard_sidecar"
_FLAGS: Final = {"true": True, "yes": True, "false": False, "no": False}
_LINK: Final = "links."
_DEEP: Final = 3  # folders between a file of a library and its root


@dataclass(frozen=True, slots=True)
class Written:
    """A sidecar that was written, or would be.

    Attributes:
        path: the sidecar.
        content: the JSON object in it.
        card: what is said about the checkpoint, with it.
    """

    path: Path
    content: Mapping[str, Any]
    card: Card


def card(ref: str | Path) -> Card:
    """Return everything that is said about a checkpoint, in its header and in the files beside it.

    Of a name of the library also what the user said to the library, which stands above the rest.
    Headers and sidecars only. A file or a sidecar that cannot be read is a note on the card.

    Raises:
        NotFoundError: there is no such file.
    """
    if (found := stored(ref)) is not None:
        return kept_of(found[0], found[2]).card
    return _card(_subject(ref))


def set_card(
    ref: str | Path,
    changes: Iterable[tuple[str, str]],
    *,
    evidence: Mapping[str, Mapping[str, Any]] | None = None,
    dry_run: bool = False,
) -> Written:
    """Write what the user says into ``NAME.memcard.json`` beside the checkpoint.

    Of a name of the library it is kept in the library, for all names of the same bytes.

    Args:
        ref: a file, a folder, or a name of the library.
        changes: field and value as a person types them; see ``fields``. Lists have commas between their
            words. An empty value takes back what this sidecar said, so that others count again.
        evidence: what the values stand on, kept in the card's ``extra`` by these names: ``learnt``, …
        dry_run: write nothing.

    Raises:
        UsageError: no such field, or not a value of it; all of them are named.
        CorruptError: the sidecar that is there cannot be read; it is left as it is.
        DiskError: the disk is full or read-only.
    """
    if (found := stored(ref)) is not None:
        return _say(found[0], found[2], changes, evidence=evidence, dry_run=dry_run)
    subject = _subject(ref)
    path, old = _sidecar(subject, ".memcard.json")
    said = Card.from_json(json.dumps(old), where=str(path)) if old else Card()
    for name, value in _parsed(changes):
        said = _with(said, name, value)
    said = _with_evidence(said, evidence)
    return _write(subject, _OWN, path, said, old, dry_run=dry_run)


def learn(
    ref: str | Path,
    folder: str | Path,
    *,
    keep: bool = False,
    dry_run: bool = False,
    progress: Listener = silent,
) -> tuple[Learnt, Written | None]:
    """Count the settings of the pictures below a folder that were made with a checkpoint; see ``Learnt``.

    Args:
        ref: as for ``set_card``.
        folder: with pictures of any tool.
        keep: set what is recommended on the card, with the counts as evidence under ``extra.learnt``.
        dry_run: with ``keep``: show what would be written, and write nothing.
        progress: hears about the hashing and the pictures.

    Returns:
        What was counted; and what was written, None if nothing was.

    Raises:
        NotFoundError: no such checkpoint or folder, or no picture below it.
        UsageError: nothing can be written for a part of the package, or of a library.
    """
    from memcard.jobs._card_learn import learn as count

    found = count(ref, folder, progress=progress)
    if not keep or not found.recommended:
        return found, None
    evidence = {"learnt": found.evidence()}
    return found, set_card(ref, found.changes(), evidence=evidence, dry_run=dry_run)


def card_in(home: Layout, ref: str) -> Card:
    """Return everything that is said about a checkpoint of a library.

    Raises:
        NotFoundError: nothing has this name.
    """
    return kept_of(home, find(home, ref)[1]).card


def describe_in(home: Layout, ref: str, changes: Iterable[tuple[str, str]]) -> Card:
    """Keep what the user says of a checkpoint of a library; return its card. Otherwise as ``set_card``."""
    return _say(home, find(home, ref)[1], changes, dry_run=False).card


def write_sidecar(
    ref: str | Path, style: str, *, overwrite: bool = False, dry_run: bool = False
) -> Written:
    """Write the card beside the checkpoint in the words of another tool.

    Args:
        ref: a file or a folder.
        style: a name in ``WRITES``.
        overwrite: change a sidecar that is there. What the card does not know of it stays.
        dry_run: write nothing.

    Raises:
        UsageError: no such style; or a sidecar is there and ``overwrite`` is not given.
        CorruptError: the sidecar that is there cannot be read; it is left as it is.
        DiskError: the disk is full or read-only.
    """
    if style not in WRITES:
        raise UsageError(f"{style!r} is not written; there are: {', '.join(WRITES)}.")
    subject = _subject(ref)
    writer = cast(Writer, CARDS[WRITES[style]])
    known = stored(ref)
    path, old = _sidecar(subject, writer.suffix)
    if path.exists() and not overwrite:
        raise UsageError(f"{path}: is there already. Add --force to put the card's fields into it.")
    said = _card(subject) if known is None else kept_of(known[0], known[2]).card
    return _write(subject, WRITES[style], path, said, old, dry_run=dry_run)


def fields() -> dict[str, str]:
    """Return the names that ``set_card`` takes, each with what it is."""
    found = {**card_fields.TEXTS, **card_fields.LISTS}
    found |= {f"settings.{name}": rule.what for name, rule in card_fields.SETTINGS.items()}
    found |= {f"permissions.{name}": "Civitai's flag" for name in card_fields.PERMISSIONS}
    found |= {
        f"hashes.{name}": f"{digits} hex digits" for name, digits in card_fields.HASHES.items()
    }
    return {**found, "links.NAME": "a web address"}


def _say(
    home: Layout,
    version: Version,
    changes: Iterable[tuple[str, str]],
    *,
    evidence: Mapping[str, Mapping[str, Any]] | None = None,
    dry_run: bool,
) -> Written:
    kept = kept_of(home, version)
    said = kept.said
    for name, value in _parsed(changes):
        said = _with(said, name, value)
    said = _with_evidence(said, evidence)
    path, content = say(home, version, said, dry_run=dry_run)
    return Written(path, content, replace(kept, said=said).card)


def _subject(ref: str | Path) -> Subject:
    return Subject(locate(ref))


def _card(subject: Subject) -> Card:
    """Read the metadata if the file lets us, then what stands beside it."""
    try:
        checkpoint = open_file(subject.path)
    except FormatError as error:
        found = read_card(subject)
        return replace(found, notes=(f"The file itself cannot be read: {error}", *found.notes))
    try:
        return read_card(replace(subject, metadata=dict(checkpoint.metadata)))
    finally:
        checkpoint.close()


def _sidecar(subject: Subject, suffix: str) -> tuple[Path, dict[str, Any]]:
    """Return where a sidecar is or would be, and what is in it.

    Raises:
        CorruptError: something else has its name.
        UsageError: the checkpoint is a part of the package, or of a library.
    """
    if any(exists(Layout(folder)) for folder in subject.path.absolute().parents[:_DEEP]):
        raise UsageError(
            f"{subject.path}: lies in a library, where nothing is written by hand. Export it "
            "(memcard export), and describe the copy."
        )
    if subject.path.parent.resolve() == starter_folder().resolve():
        raise UsageError(
            f"{subject.path.name} is a part of memcard itself. Make a copy of it (memcard convert), "
            "and describe that."
        )
    path = subject.path.parent / (subject.named(suffix) or f"{subject.stem}{suffix}")
    if not path.exists():
        return path, {}
    try:
        return path, json_object(read_text(path, SIDECAR_BYTES))
    except ValueError as error:
        raise CorruptError(
            f"{path}: {error}. It was left as it is; move it away, or correct it."
        ) from None


def _write(
    subject: Subject, dialect: str, path: Path, said: Card, old: Mapping[str, Any], *, dry_run: bool
) -> Written:
    content = cast(Writer, CARDS[dialect]).write(said, old)
    if not dry_run:
        text = json.dumps(content, ensure_ascii=False, indent=2)
        with replacing(path) as file:
            file.write(f"{text}\n".encode())
    return Written(path, content, _card(Subject(subject.path)))


def _parsed(changes: Iterable[tuple[str, str]]) -> list[tuple[str, Any]]:
    """Return full names and values in their own form; every fault at once."""
    found: list[tuple[str, Any]] = []
    faults: list[str] = []
    for typed, text in changes:
        try:
            name = _full_name(typed)
            found.append((name, check(name, _typed(name, text)) if text.strip() else None))
        except UsageError as error:
            faults.append(f"{typed}: {error}.".replace("..", "."))
    if faults:
        raise UsageError(" ".join(faults))
    return found


def _full_name(typed: str) -> str:
    """Return the name of a field; ``cfg`` is short for ``settings.cfg``."""
    known = {name.rpartition(".")[2]: name for name in fields()}
    known |= {name: name for name in fields()}
    name = re.sub(r"[ -]", "_", typed.strip()) if not typed.startswith(_LINK) else typed.strip()
    if name.startswith(_LINK) and card_fields.is_key(name[len(_LINK) :]):
        return name
    if name in known and name != "NAME":
        return known[name]
    near = get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise UsageError(f"is no field of a card.{hint} There are: {', '.join(fields())}")


def _typed(name: str, text: str) -> Any:
    if name in card_fields.LISTS or name.endswith(card_fields.COMMERCIAL):
        return [part.strip() for part in text.split(",") if part.strip()]
    if name.startswith("permissions."):
        return _FLAGS.get(text.strip().lower(), text)
    return text


def _with_evidence(said: Card, evidence: Mapping[str, Mapping[str, Any]] | None) -> Card:
    kept = {name: card_fields.plain(found) for name, found in (evidence or {}).items()}
    return replace(said, extra={**said.extra, **kept})


def _with(said: Card, name: str, value: Any) -> Card:
    """Return the card with one field changed; None takes it away."""
    part, _, key = name.partition(".")
    if not key:
        empty: Any = () if name in card_fields.LISTS else None
        return replace(said, **{name: empty if value is None else value})
    entries = {k: v for k, v in getattr(said, part).items() if k != key}
    if value is not None:
        entries[key] = value
    changed: dict[str, Any] = {part: entries}
    return replace(said, **changed)
