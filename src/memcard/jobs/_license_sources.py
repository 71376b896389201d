"""Who has a say in what may be done with a checkpoint, and where that was read.

A file speaks for itself in its header and in the files beside it; a base model is named there or in the
training notes; of a merge the recipe names the parents, which are asked in turn when they are at hand.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from memcard.cards import CARDS, Subject, trusted
from memcard.core.card import GUESS, Card
from memcard.core.license import Parent, Role
from memcard.core.progress import Listener, silent
from memcard.errors import FormatError, MemcardError
from memcard.formats import open_file
from memcard.jobs._library_cards import read_of, said_of
from memcard.jobs._library_refs import in_library, recipe_sources, record_of
from memcard.jobs.resolve import digest, label, locate, names, starter_folder
from memcard.licenses import Found, by_id, find, of_base, of_flags, plain, unknown_license
from memcard.recipes.nodes import Source, sources
from memcard.recipes.text import from_json
from memcard.store.manifest import get as manifest_of

_DEPTH: Final = 16  # merges of merges; a longer chain is a loop or a joke
_MOST: Final = 256  # parents of one file
_NAME: Final = 255  # bytes of a file name; with more, asking for it is an error of the system
_SILENT: Final = frozenset(map(plain, ("", "unknown", "other", "none", "n/a", "unspecified")))
_GGUF: Final = "general.license"
_NOT_HERE: Final = "not at hand, and not said when this was made"


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A parent as a file names it: where to look, what contents it had, what it was said to be under."""

    ref: str
    sha256: str | None = None
    license: str | None = None


@dataclass
class Inquiry:
    """Asks files, each once on a line of descent.

    Attributes:
        given: name of a file or parent to the license its user gives it; replaces all that is read.
        progress: hears about the hashing of parents.
        used: names of ``given`` that were met.
        notes: what a reader should know, one sentence each.
    """

    given: Mapping[str, str] = field(default_factory=dict)
    progress: Listener = silent
    used: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    _line: list[Path] = field(default_factory=list)
    _known: dict[Path, tuple[Parent, ...]] = field(default_factory=dict)

    def ask(self, ref: str | Path) -> tuple[Parent, ...]:
        """Return all that have a say in the license of one checkpoint, itself included.

        Raises:
            NotFoundError: there is no such file, or a license that is given is not known.
            FormatError: the file cannot be read.
        """
        path = locate(ref)
        return self._of_file(path, label(str(path)), (str(ref),))

    def unused(self) -> tuple[str, ...]:
        """Return the names that were given a license and met nowhere."""
        return tuple(name for name in self.given if name not in self.used)

    def _of_file(self, path: Path, name: str, called: tuple[str, ...] = ()) -> tuple[Parent, ...]:
        """Return all that have a say in one file; asked once, as many merges may share a parent."""
        place = path.resolve()
        if place not in self._known:
            self._line.append(place)
            found = tuple(self._heard(path, name, (name, path.name, path.stem, *called)))
            self._known[place] = tuple({_identity(parent): parent for parent in found}.values())
            self._line.pop()
        return self._known[place]

    def _heard(self, path: Path, name: str, called: tuple[str, ...]) -> Iterator[Parent]:
        if given := self._given(*called):
            yield from self._parents(name, given, "itself", "given with --license")
            return
        metadata = _metadata(path)
        own = list(self._statements(path, name, metadata))
        made = list(self._ancestors(path, name, metadata))
        if mixed := bool(_ancestors_of(path, metadata) or _discovered(path)):
            # What memcard wrote into a merge is what its parents agreed on, and no word of an author.
            ids = {parent.license.id for parent in made}
            own = [parent for parent in own if parent.license.id not in ids]
        yield from own
        if not own and not mixed:
            yield Parent(name, unknown_license(), "itself", "nothing is stated in it or beside it")
        yield from made
        yield from self._data(name, metadata)

    def _statements(self, path: Path, name: str, metadata: Mapping[str, str]) -> Iterator[Parent]:
        """Yield what the file and the files beside it say of the license, and of its base."""
        if (text := metadata.get(_GGUF)) and plain(text) not in _SILENT:
            yield from self._parents(name, self._found(name, text), "itself", _GGUF)
        for title, said in self._cards(path, metadata):
            texts = (said.license, said.links.get("license"))
            stated = [text for text in texts if text and plain(text) not in _SILENT]
            if stated:
                found = next((f for f in map(find, stated) if _understood(f)), find(stated[0]))
                self._note(name, found)
                yield from self._parents(name, found, "itself", title)
            if said.permissions:
                yield Parent(name, of_flags(said.permissions), "itself", title)

    def _cards(self, path: Path, metadata: Mapping[str, str]) -> Iterator[tuple[str, Card]]:
        """Yield what is said of a checkpoint, with who says it; the user's words to the library first."""
        if (own := said_of(path)) is not None:
            yield "what its user told the library", own
        if (kept := read_of(path)) is not None:  # only its packs are left
            yield "what was read when it was added", kept
            return
        subject = Subject(path, metadata)
        for dialect in trusted():
            try:
                said = CARDS[dialect].read(subject)
            except (MemcardError, OSError, ValueError) as error:
                self.notes.append(f"{path.name}: {dialect} could not be read: {error}.")
                continue
            if said is not None:
                yield CARDS[dialect].title, said

    def _ancestors(self, path: Path, name: str, metadata: Mapping[str, str]) -> Iterator[Parent]:
        """Yield the parents a file was mixed from, and the base it says it was trained on."""
        listed = _ancestors_of(path, metadata) or _discovered(path)
        if len(listed) > _MOST:
            self.notes.append(f"{name}: names {len(listed)} parents; only {_MOST} are looked at.")
            yield Parent(f"other parents of {name}", unknown_license(), "model", "too many")
        for ancestor in listed[:_MOST]:
            yield from self._ancestor(ancestor, path)
        if listed:
            return
        for title, said in self._cards(path, metadata):
            for base in _bases(said, metadata):
                yield from self._base(base, name, path, title)
            for parent in said.merged_from:
                yield from self._ancestor(Ancestor(parent), path)

    def _ancestor(self, ancestor: Ancestor, child: Path) -> Iterator[Parent]:
        name = label(ancestor.ref)
        if found := self._given(name, Path(name).stem, ancestor.ref):
            yield from self._parents(name, found, "model", "given with --license")
        elif (path := self._at_hand(ancestor, child)) is not None:
            for parent in self._of_file(path, name):
                yield replace(parent, role="model" if parent.role == "itself" else parent.role)
        elif ancestor.license and plain(ancestor.license) not in _SILENT:
            found = self._found(name, ancestor.license)
            yield from self._parents(name, found, "model", f"said in {child.name} when it was made")
        elif base := of_base(_stem(ancestor.ref)):
            yield Parent(name, base, "model", "by its name, which was not checked")
        else:
            yield Parent(name, unknown_license(), "model", _NOT_HERE)

    def _at_hand(self, ancestor: Ancestor, child: Path) -> Path | None:
        """Return the file of a parent, if it is there and has the contents it had."""
        path = _look(ancestor.ref, child)
        if path is None and ancestor.sha256 is not None:
            path = in_library(ancestor.sha256)
        if path is None or path.is_dir():
            return path
        if path.resolve() in self._line or len(self._line) > _DEPTH:
            self.notes.append(
                f"{child.name}: names {path.name} as its parent, which is made of it."
            )
            return None
        if ancestor.sha256 is not None and digest(path, self.progress) != ancestor.sha256:
            self.notes.append(
                f"{path.name}: has other contents than the parent of {child.name} had; it is not asked."
            )
            return None
        try:
            if record_of(path) is None:
                open_file(path, salvage=True).close()
        except (MemcardError, OSError) as error:
            self.notes.append(f"{path.name}: is not asked: {error}")
            return None
        return path

    def _base(self, base: str, name: str, path: Path, origin: str) -> Iterator[Parent]:
        called = f"{base}, base of {name}"
        if found := self._given(base, called, _stem(base)):
            yield from self._parents(called, found, "model", "given with --license")
        elif license_ := of_base(base) or of_base(_stem(base)):
            yield Parent(called, license_, "model", f"{origin}, by the name of the base")
        elif self._at_hand(Ancestor(base), path) is not None:
            yield from self._ancestor(Ancestor(base), path)
        else:
            yield Parent(called, unknown_license(), "model", f"{origin}; the base is not at hand")

    def _data(self, name: str, metadata: Mapping[str, str]) -> Iterator[Parent]:
        """Yield what the file says it was trained on: ``attribution`` of memcard's card."""
        listed = _json(metadata.get("memcard.card")).get("attribution")
        for item in listed if isinstance(listed, list) else []:
            if isinstance(item, dict) and isinstance(item.get("license"), str):
                called = str(item.get("name") or f"data of {name}")
                found = self._given(called) or self._found(called, item["license"])
                yield from self._parents(called, found, "data", f"attribution in {name}")

    def _given(self, *names: str) -> Found | None:
        for name in names:
            if name in self.given:
                self.used.add(name)
                found = self._found(name, self.given[name])
                return found if _understood(found) else Found((by_id(self.given[name]),))
        return None

    def _found(self, name: str, text: str) -> Found:
        found = find(text)
        self._note(name, found)
        return found

    def _note(self, name: str, found: Found) -> None:
        if found.note:
            self.notes.append(f"{name}: {found.note}")

    @staticmethod
    def _parents(name: str, found: Found, role: Role, origin: str) -> Iterator[Parent]:
        for license_ in found.licenses:
            yield Parent(name, license_, role, origin)


def _bases(said: Card, metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Return the models a card says this was made of; not a family, which is no model."""
    family = said.base_model == metadata.get("ss_base_model_version")
    guess = said.origin.get("base_model", "").endswith(GUESS)
    return () if family or guess else _words(said.base_model)


def _metadata(path: Path) -> Mapping[str, str]:
    """Return what the header says; nothing in the file is run."""
    if (record := record_of(path)) is not None:
        return manifest_of(*record).metadata
    checkpoint = open_file(path, salvage=True)
    found = dict(checkpoint.metadata)
    checkpoint.close()
    return found


def _ancestors_of(path: Path, metadata: Mapping[str, str]) -> Sequence[Ancestor]:
    """Return the parents a file was computed from, as its header names them; () if it names none."""
    recorded = _recorded(metadata)
    if text := metadata.get("memcard.recipe"):
        try:
            node = from_json(text)
        except FormatError:
            return (Ancestor(f"a parent of {path.name} (its recipe cannot be read)"),)
        return tuple(_with_record(source, recorded) for source in sources(node))
    if base := metadata.get("memcard.delta.base_sha256"):
        return (Ancestor(_delta_base(metadata, base), base),)
    models = _json(metadata.get("sd_merge_models"))
    if models:
        return tuple(
            Ancestor(str(_dict(facts).get("name") or key), key if len(key) == 64 else None)
            for key, facts in models.items()
        )
    merged = _words(metadata.get("modelspec.merged_from"))
    return tuple(Ancestor(name, None, recorded.get(name)) for name in merged)


def _discovered(path: Path) -> Sequence[Ancestor]:
    """Return what the library found out a checkpoint can be computed from, when it packed it."""
    try:
        return tuple(Ancestor(name, sha256) for name, sha256 in recipe_sources(path))
    except (MemcardError, OSError):
        return ()


def _delta_base(metadata: Mapping[str, str], sha256: str) -> str:
    if name := metadata.get("memcard.delta.base_name"):
        return name
    starter = starter_folder() / "base.safetensors"
    return str(starter) if digest(starter) == sha256 else f"base {sha256[:10]}"


def _with_record(source: Source, recorded: Mapping[str, str]) -> Ancestor:
    said = recorded.get(source.sha256 or "") or recorded.get(label(source.ref))
    return Ancestor(source.ref, source.sha256, said)


def _recorded(metadata: Mapping[str, str]) -> Mapping[str, str]:
    """Return name and SHA-256 of each parent to the license it had, as memcard notes it in a merge."""
    made_from = _json(metadata.get("memcard.card")).get("made_from")
    found: dict[str, str] = {}
    for item in made_from if isinstance(made_from, list) else []:
        if isinstance(item, dict) and isinstance(item.get("license"), str):
            for key in ("name", "sha256"):
                if isinstance(item.get(key), str):
                    found[item[key]] = item["license"]
    return found


def _look(ref: str, child: Path) -> Path | None:
    """Look beside the child, also with the suffix other programs leave out; and among the starter's names.

    Only the last part of a path counts: a stranger's file cannot send us anywhere on this disk.
    """
    bare = ref.replace("\\", "/").rpartition("/")[2]
    for name in (bare, f"{bare}.safetensors", f"{bare}.ckpt"):
        beside, size = child.parent / name, len(name.encode(errors="replace"))
        if bare not in ("", ".", "..") and size <= _NAME and (beside.is_file() or beside.is_dir()):
            return beside
    return locate(ref) if ref in names() or Path(ref).parent == starter_folder() else None


def _identity(parent: Parent) -> tuple[str, ...]:
    """Data that a base and its fine-tune both name is one parent."""
    origin = "" if parent.role == "data" else parent.origin
    return parent.name, parent.role, parent.license.id, origin


def _understood(found: Found) -> bool:
    return all(license_.id != "unknown" for license_ in found.licenses)


def _stem(name: str) -> str:
    bare = name.replace("\\", "/").rpartition("/")[2]
    for suffix in (".safetensors", ".ckpt", ".gguf", ".pt"):
        bare = bare.removesuffix(suffix)
    return bare


def _words(text: str | None) -> tuple[str, ...]:
    return tuple(word.strip() for word in (text or "").split(",") if word.strip())


def _json(text: str | None) -> Mapping[str, Any]:
    try:
        return _dict(json.loads(text or "{}"))
    except (ValueError, RecursionError):
        return {}


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
