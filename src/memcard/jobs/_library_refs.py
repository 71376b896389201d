"""From a name of the library to a file: what ``jobs.resolve`` asks when no path has that name."""

from __future__ import annotations

from pathlib import Path

from memcard.errors import IntegrityError, MemcardError, NotFoundError
from memcard.store import manifest as manifests
from memcard.store import packed as records
from memcard.store import places, refs, trash
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
    found = stored(text)
    return None if found is None else path_for(found[0], found[1].name, found[2])


def stored(ref: str | Path) -> tuple[Layout, refs.Ref, refs.Version] | None:
    """Return what the library has under a name; None if it has nothing, or if a file has that name.

    Raises:
        MismatchError, UnsupportedError, CorruptError: as ``library_path``.
    """
    home = Layout(default_home())
    if not exists(home) or Path(ref).expanduser().exists():
        return None
    check(home)
    found = refs.search(home, str(ref))
    return None if found is None else (home, *found)


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


def called(home: Layout, manifest: str, ref: str) -> str:
    """Return the name of a packed checkpoint as people know it.

    Args:
        home: the library.
        manifest: of the checkpoint.
        ref: by which it was found; a name with digits, for an older version, is kept.
    """
    found = stored(ref)
    if found is None or found[2].manifest != manifest:
        return name_of(home, manifest)
    _, named, version = found
    return named.name if version is named.version else f"{named.name}@{version.sha256[:8]}"


def name_of(home: Layout, manifest: str) -> str:
    """Return a name of a manifest, or its first digits if it has none."""
    for ref in refs.every(home):
        if any(version.manifest == manifest for version in ref.versions):
            return ref.name
    return manifest[:12]


def in_library(sha256: str) -> Path | None:
    """Return a file, folder or record with exactly these bytes; None if no copy is at hand."""
    try:
        return library_path(sha256)
    except (MemcardError, OSError):
        return None


def manifest_at(path: Path) -> tuple[Layout, str] | None:
    """Return library and manifest of a checkpoint by the path of its record, or of a file of it."""
    if (record := record_of(path)) is not None:
        return record
    home = Layout(default_home())
    if not exists(home):
        return None
    if path.parent.parent == home.shelf("files"):
        found: list[str | None] = [path.name]
    else:
        found = [places.known(home, path.absolute(), whole=whole) for whole in (True, False)]
    for sha256 in found:
        known = None if sha256 is None else places.get(home, sha256)
        if known is not None and known.manifest is not None:
            return home, known.manifest
    return None


def recipe_sources(path: Path) -> tuple[tuple[str, str], ...]:
    """Return name and SHA-256 of what the library computes a checkpoint from; () if it does not."""
    home, manifest = manifest_at(path) or (None, "")
    record = None if home is None else records.get(home, manifest)
    if home is None or record is None:
        return ()
    return tuple((name_of(home, m), manifests.get(home, m).sha256) for m in record.sources)


def originals(home: Layout, manifest_id: str) -> tuple[str, ...]:
    """Say of each plain file of a packed checkpoint where it was, and what became of it."""
    manifest = manifests.get(home, manifest_id)
    digests = {file.sha256 for file in manifest.files}
    found = [
        f"The original was {original.path}; it is in the trash, and `memcard undo {entry.name}` puts it back."
        for entry, original in trash.originals_of(home, digests)
    ]
    record = places.get(home, manifest.sha256)
    for place in () if record is None else record.places:
        if not place.is_as_it_was():
            became = "was changed since" if place.path.exists() else "is not there any more"
            found.append(f"The original was {place.path}, which {became}.")
    return tuple(found)
