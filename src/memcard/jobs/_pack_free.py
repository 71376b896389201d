"""Let go of plain copies of checkpoints that were packed and read back."""

from __future__ import annotations

from contextlib import closing
from hashlib import sha256
from pathlib import Path

from memcard.core.atomic import disk_errors
from memcard.errors import IntegrityError, MemcardError
from memcard.jobs._stored import decoded, open_stored
from memcard.store import files as owned_files
from memcard.store import manifest as manifests
from memcard.store import packed as records
from memcard.store import places, refs, trash
from memcard.store.layout import Layout
from memcard.store.manifest import Manifest
from memcard.store.objects import pack_path
from memcard.store.originals import Original
from memcard.store.places import Place
from memcard.store.survey import get_bones
from memcard.store.writer import Writer


def free(home: Layout, manifest: Manifest, manifest_id: str, *, proven: bool) -> int:
    """Remove the library's own plain copies of a packed checkpoint; return the bytes that became free.

    Args:
        home: the library.
        manifest: of the checkpoint.
        manifest_id: its id.
        proven: whether what is packed was read back in this run; else that is done now, for packs rot.

    Raises:
        IntegrityError, CorruptError, NotFoundError: the packs do not give the files back; nothing is removed.
    """
    there = [file for file in manifest.files if owned_files.get(home, file.sha256) is not None]
    if not there:
        return 0
    _prove(home, manifest, manifest_id, whole=not proven)
    freed = 0
    with Writer(home) as writer, writer.commit():
        others = _needed_elsewhere(home, manifest_id, {file.sha256 for file in there})
        if others is None or not _is_safe(home, manifest_id):
            return 0
        for file in there:
            owned = owned_files.get(home, file.sha256)
            if owned is None or file.sha256 in others:
                continue
            size = owned.path.stat().st_size if owned.path.stat().st_nlink == 1 else 0
            with disk_errors(owned.path):
                owned.path.unlink()
                home.file_state(file.sha256).unlink(missing_ok=True)
            freed += size
    return freed


def replace_originals(
    home: Layout, name: str, manifest: Manifest, manifest_id: str, *, proven: bool
) -> tuple[str, ...]:
    """Put the users' own files of a packed checkpoint into the library's trash; return their paths.

    A file that changed is no copy any more, and one behind a link may be meant for something else: both
    are left alone. ``undo`` puts them back to where they were.

    Raises:
        IntegrityError: a file was changed at this very moment; it is left where it is.
        DiskError: the library is on another disk, which is full.
    """
    others = _needed_elsewhere(home, manifest_id, {file.sha256 for file in manifest.files})
    if others is None or not _is_safe(home, manifest_id):
        return ()
    _prove(home, manifest, manifest_id, whole=not proven)
    wanted = dict.fromkeys(f.sha256 for f in manifest.files if f.sha256 not in others)
    found = [
        Original.of(sha256, place)
        for sha256 in wanted
        for place in _places(home, sha256)
        if place.is_as_it_was() and _is_direct(place.path)
    ]
    if not found:
        return ()
    taken = tuple(str(original.path) for original in found)
    where = taken[0] if len(taken) == 1 else f"{taken[0]} and {len(taken) - 1} more"
    with Writer(home) as writer:
        trash.put_away_originals(
            writer, "pack", f"original of {name}, packed; it was {where}", found
        )
    return taken


def _places(home: Layout, sha256: str) -> tuple[Place, ...]:
    record = places.get(home, sha256)
    return () if record is None else record.places


def _is_direct(path: Path) -> bool:
    """Whether no part of a path is a link."""
    return not path.is_symlink() and path.resolve() == path.absolute()


def _is_safe(home: Layout, manifest_id: str, above: tuple[str, ...] = ()) -> bool:
    """Whether a checkpoint is on record as packed, and all its packs are there."""
    record = records.get(home, manifest_id)
    if record is None or manifest_id in above:
        return False
    if not all(pack_path(home, p).exists() for p in record.packs):
        return False
    return all(_is_safe(home, source, (*above, manifest_id)) for source in record.sources)


def _prove(home: Layout, manifest: Manifest, manifest_id: str, *, whole: bool) -> None:
    """See that all is there to give the files back; ``whole``: by giving them back.

    Raises:
        IntegrityError, CorruptError, NotFoundError: it is not.
    """
    for file in manifest.files:
        if file.skeleton.stored:
            get_bones(home, file.skeleton)
    if not whole:
        return
    stored = open_stored(home, manifest_id)
    try:
        for number, file in enumerate(manifest.files):
            digest = sha256()
            with closing(decoded(stored, number)) as pieces:
                for piece in pieces:
                    digest.update(piece)
            if digest.hexdigest() != file.sha256:
                raise IntegrityError(
                    f"{manifest_id}: its packs give a file with the SHA-256 {digest.hexdigest()}, not "
                    f"{file.sha256}. The plain copy stays; `memcard repair` mends the packs from it."
                )
    finally:
        stored.close()


def _needed_elsewhere(home: Layout, manifest_id: str, wanted: set[str]) -> set[str] | None:
    """Return which files belong to another checkpoint too that is not packed; None if that is not known.

    A name in the trash may come back, so what it needs counts.
    """
    try:
        named = [*refs.every(home)]
        for entry in trash.every(home):
            named += [refs.read(p) for p, item in entry.present() if item.startswith("refs/")]
        versions = {v.manifest: v for ref in named for v in ref.versions}
        found = set[str]()
        for other, version in versions.items():
            if other == manifest_id or records.get(home, other) is not None:
                continue
            several = version.format in ("diffusers_folder", "sharded", "dcp_memcard")
            if several:
                found |= wanted & {file.sha256 for file in manifests.get(home, other).files}
            found |= wanted & {version.sha256}
    except (MemcardError, FileNotFoundError):
        return None  # damaged, or changing at this moment
    return found
