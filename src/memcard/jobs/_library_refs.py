"""From a name of the library to a file: what ``jobs.resolve`` asks when no path has that name."""

from __future__ import annotations

from pathlib import Path

from memcard.errors import IntegrityError, NotFoundError
from memcard.store import packed as records
from memcard.store import refs
from memcard.store.layout import Layout, check, default_home, exists
from memcard.store.whereabouts import plain

_DIGITS = 64  # of the id of a manifest


def library_path(text: str) -> Path | None:
    """Return a file or folder with the bytes of what the library has under a name.

    Args:
        text: a name, ``name@digits``, or 8 or more digits of a digest.

    Returns:
        None if there is no library, or nothing in it has this name.

    Raises:
        IntegrityError: all that is left was changed since it was added.
        NotFoundError: the library knows the name, but no copy is where it was.
        MismatchError: several checkpoints fit.
        UnsupportedError, CorruptError: the library is of a newer version, or damaged.
    """
    home = Layout(default_home())
    if not exists(home):
        return None
    check(home)
    found = refs.search(home, text)
    return None if found is None else path_for(home, found[0].name, found[1])


def path_for(home: Layout, name: str, version: refs.Version) -> Path:
    """Return a plain file or folder with the bytes of a version; of a packed one without, its record.

    ``jobs.resolve`` opens the record as the checkpoint.

    Raises:
        IntegrityError, NotFoundError: as ``library_path``.
    """
    try:
        return plain(home, name, version)
    except (IntegrityError, NotFoundError):
        if records.get(home, version.manifest) is None:
            raise
        return records.path_of(home, version.manifest)


def record_of(path: Path) -> tuple[Layout, str] | None:
    """Return library and manifest of a record that ``path_for`` gave; None for any other path."""
    if path.suffix != ".json" or len(path.stem) != _DIGITS or path.parent.parent.name != "packed":
        return None
    home = Layout(path.parents[2])
    return (home, path.stem) if exists(home) else None


def name_of(home: Layout, manifest: str) -> str:
    """Return a name of a manifest, or its first digits if it has none."""
    for ref in refs.every(home):
        if any(version.manifest == manifest for version in ref.versions):
            return ref.name
    return manifest[:12]
