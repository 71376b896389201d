"""Give a stored checkpoint back as the very file it was."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from memcard.core.atomic import replacing, replacing_folder
from memcard.core.digest import read_once
from memcard.core.progress import Event, Listener, Progress, silent
from memcard.errors import IntegrityError, MemcardError, NotFoundError, UsageError
from memcard.jobs._run_names import RUNS
from memcard.jobs._stored import StoredCheckpoint, decoded, open_stored
from memcard.store import manifest as manifests
from memcard.store import packed as records
from memcard.store import refs
from memcard.store._stream import Stream
from memcard.store.layout import Layout, check
from memcard.store.manifest import File, Manifest
from memcard.store.refs import quoted
from memcard.store.whereabouts import Copy, copies, gone


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written.

    Attributes:
        name: of the checkpoint in the library.
        path: the file or folder.
        sha256: of the bytes that were written; it is the one the library has.
        size: bytes of all files.
    """

    name: str
    path: Path
    sha256: str
    size: int

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        return asdict(self) | {"path": str(self.path)}


def export(
    home: Layout,
    ref: str,
    out: str | Path,
    *,
    overwrite: bool = False,
    progress: Listener = silent,
) -> Exported:
    """Write a stored checkpoint; every byte is hashed on its way.

    Args:
        home: the library.
        ref: a name, ``name@digits``, or the first digits of a digest.
        out: file to write; a folder takes the file under the name it was added with. A checkpoint
            of several files becomes a folder of this name.
        overwrite: replace a file or folder that is there.
        progress: hears how many bytes are written.

    Raises:
        NotFoundError: there is no such checkpoint, or no copy of it is at hand.
        IntegrityError: no copy has the bytes any more that were added.
        UsageError: ``out`` is there already, or is the only copy itself.
    """
    check(home)
    found, version = refs.find(home, ref)
    manifest = manifests.get(home, version.manifest)
    target = Path(out).expanduser()
    root, above = home.root.resolve(), target.resolve().parents
    if root in above and root / RUNS not in above:
        raise UsageError(f"{target}: lies in the library itself. Export to a place outside of it.")
    if manifest.is_folder:
        _export_folder(home, found.name, version, manifest, target, overwrite, progress)
    else:
        target = target / (version.origin or quoted(found.name)) if target.is_dir() else target
        if target.exists() and not overwrite:
            raise UsageError(f"{target}: is there already. Choose another name, or use --force.")
        _export_file(home, (found.name, version), manifest.files[0], target, progress)
    return Exported(found.name, target, manifest.sha256, manifest.size)


def _export_folder(
    home: Layout,
    name: str,
    version: refs.Version,
    manifest: Manifest,
    target: Path,
    overwrite: bool,
    progress: Listener,
) -> None:
    if target.exists() and not overwrite and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target}: is there already. Choose another name, or use --force.")
    if any(
        target.resolve() == c.path.resolve().parent
        for f in manifest.files
        for c in copies(home, f.sha256)
    ):
        raise UsageError(f"{target}: holds the very files to export. Choose another name.")
    done = 0
    with replacing_folder(target, overwrite=overwrite) as folder:
        for file in manifest.files:
            path = folder / file.name
            path.parent.mkdir(parents=True, exist_ok=True)
            _export_file(home, (name, version), file, path, _after(progress, done, manifest.size))
            done += file.size


def _export_file(
    home: Layout,
    what: tuple[str, refs.Version],
    file: File,
    target: Path,
    progress: Listener,
) -> None:
    """Write one file from the first copy that has its bytes."""
    found = tuple(copies(home, file.sha256))
    if not target.parent.is_dir():
        raise NotFoundError(f"{target.parent}: no such folder. Make it first.")
    if target.exists() and any(c.fitness != "missing" and target.samefile(c.path) for c in found):
        raise UsageError(f"{target}: is the file to export itself. Choose another name.")
    faults: list[MemcardError] = []
    for copy in _sound(found):
        try:
            _copy(copy, file, target, progress)
        except IntegrityError as error:
            faults.append(error)
        else:
            return
    if records.get(home, what[1].manifest) is not None:
        _unpack(home, what[1].manifest, file, target, progress)
        return
    if faults:
        raise IntegrityError(" ".join(map(str, faults)))
    raise gone(*what, found)


def _unpack(home: Layout, manifest_id: str, file: File, target: Path, progress: Listener) -> None:
    """Write one file of a packed checkpoint."""
    stored = open_stored(home, manifest_id)
    number = stored.manifest.files.index(file)
    try:
        _write(stored, number, target, progress)
    except IntegrityError:
        with closing(
            decoded(stored, number)
        ) as chunks:  # each block's check tells which pack it is
            for _ in chunks:
                pass
        raise
    finally:
        stored.close()


def _write(stored: StoredCheckpoint, number: int, target: Path, progress: Listener) -> None:
    digest, file = hashlib.sha256(), stored.manifest.files[number]
    with (
        replacing(target) as part,
        closing(decoded(stored, number, checked=False)) as chunks,
    ):
        stream = Stream(part, target, digest.update)
        for chunk in chunks:
            stream.write(chunk)
            progress(Progress("export", stream.size, file.size))
        stream.finish()
        if digest.hexdigest() != file.sha256:
            raise IntegrityError(
                f"{target}: its packs give a file with the SHA-256 {digest.hexdigest()}, it was packed "
                f"with {file.sha256}. Nothing was written. Add another copy of the checkpoint: memcard "
                "add FILE."
            )


def _sound(found: Sequence[Copy]) -> list[Copy]:
    """Return the copies that look unchanged; ours first, which nobody else writes to."""
    return sorted((c for c in found if c.fitness == "ok"), key=lambda copy: not copy.owned)


def _copy(copy: Copy, file: File, target: Path, progress: Listener) -> None:
    digest = hashlib.sha256()
    with replacing(target) as part:
        stream = Stream(part, target)

        def write(chunk: memoryview, offset: int) -> None:  # comes in order
            stream.write(chunk)

        def hashed(chunk: memoryview, offset: int) -> None:
            digest.update(chunk)

        read_once(copy.path, hashed, write, phase="export", progress=progress)
        stream.finish()
        if digest.hexdigest() != file.sha256:
            raise IntegrityError(
                f"{copy.path}: its SHA-256 is {digest.hexdigest()}, it was added with {file.sha256}. The disk "
                "gives back other bytes than it was given, or someone changed the file and its time. "
                "Nothing was written from it. Add another copy of the checkpoint: memcard add FILE."
            )


def _after(progress: Listener, before: int, total: int) -> Listener:
    def hear(event: Event) -> None:
        if isinstance(event, Progress):
            event = Progress(event.phase, before + event.done, total)
        progress(event)

    return hear
