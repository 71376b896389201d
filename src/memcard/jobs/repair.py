"""Mend what the library keeps, from whatever else has the same values.

Nothing is removed before what replaces it was written, synced, read back and compared with its digests; and
then it goes into the trash, from which `undo` brings it back. Files that are not the library's are only read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from memcard.core.atomic import disk_errors
from memcard.core.progress import Listener, Progress, silent
from memcard.errors import IntegrityError, MemcardError
from memcard.jobs._repair_packs import mend_packs, pieces, read_back
from memcard.jobs._repair_sources import Sources
from memcard.jobs._stored import StoredCheckpoint
from memcard.jobs.verify import Checked, verify
from memcard.store import files, refs, trash
from memcard.store import manifest as manifests
from memcard.store import packed as records
from memcard.store.layout import Layout, check
from memcard.store.manifest import Skeleton
from memcard.store.survey import get_bones, put_bones
from memcard.store.writer import Writer, copy_into, sync_file

_READ_ONLY = 0o444


@dataclass(frozen=True, slots=True)
class Mended:
    """One thing that was restored, or would be.

    Attributes:
        what: the file, pack or skeleton; "objects" for what was found for packs.
        how: in a few words.
        nbytes: that came from elsewhere.
    """

    what: str
    how: str
    nbytes: int = 0


@dataclass(frozen=True, slots=True)
class Repaired:
    """What was mended, and what could not be.

    Attributes:
        mended: what was restored.
        exact: names of the packed checkpoints that were read back whole afterwards.
        lost: names of the checkpoints of which no sound copy is left.
        faults: sentences: what is still wrong, and what to do.
        entries: names of the trash entries that have the damaged files, for ``undo``.
        dry_run: whether nothing was written.
    """

    mended: tuple[Mended, ...] = ()
    exact: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    entries: tuple[str, ...] = ()
    dry_run: bool = False

    @property
    def ok(self) -> bool:
        """Whether nothing damaged is left."""
        return not self.lost and not self.faults

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        return asdict(self) | {"ok": self.ok}


def repair(
    home: Layout,
    names: Iterable[str] = (),
    *,
    dry_run: bool = False,
    progress: Listener = silent,
) -> Repaired:
    """Read everything, and mend what is damaged from other copies.

    Args:
        home: the library.
        names: names or digests; none means everything, older versions too.
        dry_run: only say what would be done.
        progress: hears how many bytes are read.

    Raises:
        NotFoundError: there is no library, or no such name.
        DiskError, LockedError: nothing can be written; what was mended by then stays mended.
    """
    check(home)
    chosen = tuple(names)
    pairs = [refs.find(home, name) for name in chosen]
    pairs = pairs or [(ref, v) for ref in refs.every(home, []) for v in ref.versions]
    called = {version.manifest: ref.name for ref, version in reversed(pairs)}
    mended = list(_skeletons(home, called, dry_run=dry_run))
    packs = mend_packs(home, called, dry_run=dry_run, heard=_heard(progress))
    if packs.objects:
        origins = ", ".join(dict.fromkeys(packs.objects.values()))
        count = len(packs.objects)
        mended.append(Mended(f"{count} objects of packs", f"found in {origins}", packs.nbytes))
    mended += [Mended(str(p.path), f"{p.state}; its sound objects copied") for p in packs.broken]
    entries = [] if packs.entry is None else [packs.entry]
    faults = list(packs.faults.values())
    found = verify(home, chosen, packs=False, progress=progress)
    for file in found.files:
        if file.owned and file.verdict != "ok":
            others = [o.path for o in found.files if o.verdict == "ok" and o.sha256 == file.sha256]
            _file(home, called, file, others, dry_run, mended, faults, entries)
        elif file.verdict == "rotten":
            faults.append(
                f"{file.path}: is rotten, is not the library's and stays as it is. Put a sound copy in its "
                f"place: memcard export '{file.name}'."
            )
    lost = verify(home, chosen, packs=False).lost
    still = [n for n in lost if not _is_packed(home, n, packs.faults)]
    return Repaired(
        *(tuple(mended), tuple(dict.fromkeys(packs.exact)), tuple(still), tuple(faults)),
        *(tuple(entries), dry_run),
    )


def _heard(progress: Listener) -> Any:
    done = [0]

    def heard(read: int) -> None:
        done[0] += read
        progress(Progress("packs", done[0], done[0]))

    return heard


def _is_packed(home: Layout, name: str, faults: Mapping[str, str]) -> bool:
    ref = refs.get(home, name)
    with suppress(MemcardError):
        return (
            ref is not None
            and name not in faults
            and records.get(home, ref.version.manifest) is not None
        )
    return False


def _skeletons(home: Layout, called: Mapping[str, str], *, dry_run: bool) -> Iterator[Mended]:
    """Write skeletons anew that are damaged or gone, from plain copies."""
    wanted: dict[str, Skeleton] = {}
    for manifest_id in called:
        with suppress(MemcardError):  # doctor tells of a damaged manifest
            for file in manifests.get(home, manifest_id).files:
                if file.skeleton.stored and not _is_sound(home, file.skeleton):
                    wanted[file.skeleton.blake3] = file.skeleton
    if not wanted:
        return
    sources = Sources(home, wanted)
    try:
        for key, skeleton in wanted.items():
            rescue = sources.find(key)
            if rescue is None:
                continue  # verify tells of it
            bones = bytearray(rescue.size)
            rescue.read(0, memoryview(bones))
            if not dry_run:
                with Writer(home) as writer, writer.commit():
                    home.skeleton(key).unlink(missing_ok=True)  # its bytes are of no use
                    put_bones(writer, skeleton, bytes(bones))
            yield Mended(str(home.skeleton(key)), f"found in {rescue.origin}", rescue.size)
    finally:
        sources.close()


def _is_sound(home: Layout, skeleton: Skeleton) -> bool:
    try:
        get_bones(home, skeleton)
    except MemcardError:
        return False
    return True


def _file(
    home: Layout,
    called: Mapping[str, str],
    damaged: Checked,
    others: list[Path],
    dry_run: bool,
    mended: list[Mended],
    faults: list[str],
    entries: list[str],
) -> None:
    """Write a plain file of the library anew, from another copy or from its packs."""
    packed = None if others else _packed_file(home, called, damaged.sha256)
    if not others and packed is None:
        faults.append(
            f"{damaged.path}: of {damaged.name} no sound copy is at hand. Add one: memcard add FILE."
        )
        return
    origin = str(others[0]) if others else "its packs"
    if not dry_run:
        with Writer(home) as writer:
            part = writer.part()
            with disk_errors(part):
                if others:
                    copy_into(part, others[0])
                elif packed is not None:
                    _unpack(home, packed, part)
            _place(writer, part, damaged, entries)
    size = sum(path.stat().st_size for path in others[:1])
    mended.append(Mended(str(damaged.path), f"copied from {origin}", size))


def _packed_file(home: Layout, called: Mapping[str, str], sha256: str) -> tuple[str, int] | None:
    """Return manifest and number of a file that packs give exactly."""
    for manifest_id in called:
        with suppress(MemcardError):
            record = records.get(home, manifest_id)
            listed = manifests.get(home, manifest_id).files
            for number, file in enumerate(listed):
                if file.sha256 == sha256 and record is not None:
                    return None if read_back(home, manifest_id, record) else (manifest_id, number)
    return None


def _unpack(home: Layout, packed: tuple[str, int], part: Path) -> None:
    record = records.get(home, packed[0])
    if record is None:
        raise IntegrityError(f"{packed[0]}: is packed no longer. Run the same command again.")
    stored = StoredCheckpoint(home, packed[0], record)
    try:
        size = stored.manifest.files[packed[1]].size
        with part.open("xb", buffering=0) as file:
            for piece in pieces(stored, packed[1], size):
                left = piece
                while left:
                    left = left[file.write(left) :]
        sync_file(part)
    finally:
        stored.close()


def _place(writer: Writer, part: Path, damaged: Checked, entries: list[str]) -> None:
    """Give a new file the name of a damaged one, which goes into the trash first."""
    with part.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != damaged.sha256:
        raise IntegrityError(
            f"{damaged.path}: its other copy changed while it was read. Run the same command again."
        )
    part.chmod(_READ_ONLY)
    with writer.commit():
        if damaged.path.is_file():
            title = f"damaged file of {damaged.name}"
            entries.append(trash.put_away(writer, "repair", title, [damaged.path]).name)
        writer.place(part, damaged.path)
        files.note(writer, damaged.sha256, "copy")
