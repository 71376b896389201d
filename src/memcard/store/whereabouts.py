"""Where the bytes of a stored checkpoint can be read as a plain file or folder right now."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from memcard.errors import IntegrityError, MemcardError, NotFoundError
from memcard.store import files, places
from memcard.store import manifest as manifests
from memcard.store.layout import Layout
from memcard.store.refs import Version

Fitness: TypeAlias = Literal["ok", "changed", "missing"]


@dataclass(frozen=True, slots=True)
class Copy:
    """One plain file, or folder, that has or had the bytes.

    Attributes:
        path: where.
        owned: whether it is the library's.
        fitness: ``ok``; ``changed``: it may hold anything now; ``missing``.
    """

    path: Path
    owned: bool
    fitness: Fitness


def copies(layout: Layout, sha256: str) -> Iterator[Copy]:
    """Yield all known places of a single file: the users' own first, for their names are better."""
    record = places.get(layout, sha256)
    for place in () if record is None else record.places:
        yield Copy(place.path, owned=False, fitness=_fitness(place))
    if (owned := files.get(layout, sha256)) is not None:
        try:
            owned.check()
        except IntegrityError:
            yield Copy(owned.path, owned=True, fitness="changed")
        except FileNotFoundError:  # put away since it was looked up
            yield Copy(owned.path, owned=True, fitness="missing")
        else:
            yield Copy(owned.path, owned=True, fitness="ok")


def copies_of(layout: Layout, version: Version) -> tuple[Copy, ...]:
    """Return all known places of a version; of one of several files: the folders or indexes."""
    if version.format not in ("diffusers_folder", "sharded"):
        return tuple(copies(layout, version.sha256))
    record = places.get(layout, version.sha256)
    members = manifests.get(layout, version.manifest).files
    found = []
    for place in () if record is None else record.places:
        root = place.path if version.format == "diffusers_folder" else place.path.parent
        states = [_member_fitness(layout, file.sha256, root / file.name) for file in members]
        found.append(Copy(place.path, owned=False, fitness=max(states, key=_ORDER.index)))
    return tuple(found)


def plain(layout: Layout, name: str, version: Version) -> Path:
    """Return a file or folder with the bytes of a version, unchanged as far as its state tells.

    Raises:
        IntegrityError: all that is left was changed since it was added.
        NotFoundError: nothing is left where it was.
    """
    found = copies_of(layout, version)
    for copy in found:
        if copy.fitness == "ok":
            return copy.path
    raise gone(name, version, found)


def gone(name: str, version: Version, found: tuple[Copy, ...]) -> MemcardError:
    """Return the error that tells where a version was, what became of it, and what to do."""
    listed = (
        "; ".join(f"{copy.path} {_SAID[copy.fitness]}" for copy in found) or "no place is known"
    )
    text = f"{name} (SHA-256 {version.sha256[:16]}…): {listed}."
    if any(copy.fitness == "changed" for copy in found):
        return IntegrityError(
            f"{text} It is not used under this name, for it may hold other values now. `memcard add` "
            "reads it again; or put the original back."
        )
    return NotFoundError(
        f"{text} Put the file back, connect the disk it is on, or add another copy: memcard add FILE."
    )


_ORDER: tuple[Fitness, ...] = ("ok", "changed", "missing")
_SAID = {"changed": "was changed since it was added", "missing": "is not there", "ok": "is there"}


def _fitness(place: places.Place) -> Fitness:
    try:
        stat = place.path.stat()
    except OSError:
        return "missing"
    return "ok" if place.state.is_of(stat) else "changed"


def _member_fitness(layout: Layout, sha256: str, path: Path) -> Fitness:
    record = places.get(layout, sha256)
    for place in () if record is None else record.places:
        if place.path == path:
            return _fitness(place)
    return "changed" if path.exists() else "missing"
