"""Read what the library remembers, and tell whether it still is what it was."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from blake3 import blake3

from memcard.core.progress import Event, Listener, Progress, silent
from memcard.errors import (
    CorruptError,
    DiskError,
    IntegrityError,
    LockedError,
    MemcardError,
    UsageError,
)
from memcard.jobs._verified_when import When
from memcard.jobs._verify_packs import CheckedPack, PackWork, record_key
from memcard.store import files, places, refs
from memcard.store import manifest as manifests
from memcard.store.layout import Layout, check
from memcard.store.manifest import Manifest
from memcard.store.places import Place, State
from memcard.store.survey import Run, get_bones, survey
from memcard.store.whereabouts import Copy, copies
from memcard.store.writer import Writer

Verdict: TypeAlias = Literal["ok", "rotten", "changed", "missing"]

_CHUNK = 4 << 20


@dataclass(frozen=True, slots=True)
class Checked:
    """One file that has, or should have, the bytes of a checkpoint.

    Attributes:
        name: of the checkpoint in the library.
        path: of the file.
        sha256: it should have.
        verdict: ``ok``; ``rotten``: other bytes, though size and time are as they were; ``changed``:
            other bytes and another state, so someone wrote to it; ``missing``.
        tensors: names of the tensors whose values are damaged; of all tensors where the file has
            another size.
        owned: whether it is the library's.
        read: bytes that were read.
    """

    name: str
    path: Path
    sha256: str
    verdict: Verdict
    tensors: tuple[str, ...] = ()
    owned: bool = False
    read: int = 0


@dataclass(frozen=True, slots=True)
class Verified:
    """What was looked at, and what is wrong.

    Attributes:
        files: every copy of every file.
        packs: every pack that a checkpoint needs.
        passed: files and packs that were found sound not long ago, and not read again.
        faults: sentences, one for each fault: what is damaged, and what to do.
        lost: names of the checkpoints of which no copy is sound and at hand.
    """

    files: tuple[Checked, ...]
    faults: tuple[str, ...]
    lost: tuple[str, ...]
    packs: tuple[CheckedPack, ...] = ()
    passed: int = 0

    @property
    def ok(self) -> bool:
        """Whether every checkpoint has a sound copy, and no copy is rotten."""
        return not self.faults and not self.lost

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        listed = [asdict(file) | {"path": str(file.path)} for file in self.files]
        return {
            "ok": self.ok,
            "lost": self.lost,
            "faults": self.faults,
            "files": listed,
            "packs": [pack.to_dict() for pack in self.packs],
            "passed": self.passed,
        }


def verify(
    home: Layout,
    names: Iterable[str] = (),
    *,
    sample: float = 1.0,
    seed: int = 0,
    older_than: float = 0.0,
    packs: bool = True,
    progress: Listener = silent,
) -> Verified:
    """Read all copies of checkpoints, and their packs, and compare them with their digests.

    A file whose time changed and whose bytes did not is recorded anew, so that it is served again.

    Args:
        home: the library.
        names: names or digests; none means everything, older versions too.
        sample: share of the bytes to read, 0 < sample <= 1. Below 1 whole tensors are chosen, so
            that a file that lost a part is found with that probability or higher.
        seed: of the choice; another one each day reads everything in time.
        older_than: pass over what was read whole and found sound within so many seconds. So a run that
            was stopped goes on where it was.
        packs: read packs too.
        progress: hears how many bytes are read.

    Raises:
        NotFoundError: there is no library, or no such name.
        UsageError: ``sample`` is out of its range.
    """
    if not 0 < sample <= 1:
        raise UsageError(f"sample is {sample}; it must be above 0 and at most 1.")
    library_id = check(home)
    damaged: list[CorruptError] = []
    pairs = [refs.find(home, name) for name in names]
    pairs = pairs or [(ref, v) for ref in refs.every(home, damaged) for v in ref.versions]
    chance = random.Random(seed)  # noqa: S311  # a choice of what to read, no secret
    work = _Work(home, sample, chance, progress)
    work.when, work.older_than = When(library_id), older_than
    shelf = PackWork(
        home,
        {version.manifest: ref.name for ref, version in reversed(pairs)} if packs else {},
        sample=sample,
        chance=chance,
        heard=work.hear,
        known=work.known,
    )
    try:
        work.total = sum(version.size for _, version in pairs) + shelf.total
        work.faults += [*map(str, damaged), *shelf.faults]
        plain = [(ref, version, work.version(ref.name, version)) for ref, version in pairs]
        checked = _packs(work, shelf)
        lost = dict.fromkeys(
            ref.name
            for ref, version, ok in plain
            if version is ref.version and not ok and not shelf.sound(version.manifest)
        )
    finally:
        shelf.close()
    return Verified(tuple(work.found), tuple(work.faults), tuple(lost), checked, work.passed)


def _packs(work: _Work, packs: PackWork) -> tuple[CheckedPack, ...]:
    """Read the packs; tell what is wrong with them and which checkpoints need it."""
    before = len(packs.faults)
    checked = packs.run()
    work.faults += packs.faults[before:]
    for found in checked:
        if found.state == "ok":
            if work.whole:
                work.when.note(f"pack {found.name}")
            continue
        needed = f" Needed by: {', '.join(found.needed_by)}." if found.needed_by else ""
        more = f" There are {len(found.why) - 1} more faults in it." if len(found.why) > 1 else ""
        work.faults.append(
            f"{found.why[0]}{more}{needed} `memcard repair` looks for other copies of what it holds."
        )
    if work.whole:
        for manifest_id, record in packs.records.items():
            if record.recipe is not None and packs.sound(manifest_id):
                work.when.note(record_key(record))
    return checked


class _Work:
    """One run over the library; the same bytes are read once, however many names they have."""

    def __init__(
        self, home: Layout, sample: float, chance: random.Random, progress: Listener
    ) -> None:
        self.home, self._sample, self._chance, self._progress = home, sample, chance, progress
        self.found: list[Checked] = []
        self.faults: list[str] = []
        self.total = self._done = self.passed = 0
        self.when, self.older_than = When("", Path(os.devnull)), 0.0
        self.whole = sample == 1
        self._seen: dict[tuple[str, Path], bool] = {}

    def version(self, name: str, version: refs.Version) -> bool:
        """Look at all files of a checkpoint; return whether each has a sound copy."""
        try:
            manifest = manifests.get(self.home, version.manifest)
        except MemcardError as error:
            self.faults.append(str(error))
            return False
        sound = True
        for i, file in enumerate(manifest.files):
            if file.skeleton.stored:
                try:
                    get_bones(self.home, file.skeleton)
                except MemcardError as error:
                    self.faults.append(str(error))
            known = [self._copy(name, manifest, i, c) for c in copies(self.home, file.sha256)]
            sound = sound and any(known)
            self._done += file.size
        return sound

    def _copy(self, name: str, manifest: Manifest, index: int, copy: Copy) -> bool:
        try:
            return self._looked_at(name, manifest, index, copy)
        except FileNotFoundError:  # put away since it was looked up
            return self._looked_at(name, manifest, index, replace(copy, fitness="missing"))

    def _looked_at(self, name: str, manifest: Manifest, index: int, copy: Copy) -> bool:
        file = manifest.files[index]
        key = file.sha256, copy.path
        if key in self._seen:
            return self._seen[key]
        facts = (name, copy.path, file.sha256)
        if copy.fitness == "ok" and self.known(_state_key(copy, file.sha256)):
            self.found.append(Checked(*facts, "ok", owned=copy.owned))
            self._seen[key] = True
            return True
        if copy.fitness == "missing":
            checked = Checked(*facts, "missing", owned=copy.owned)
        else:
            wrong, read = self._read(manifest, index, copy)
            verdict: Verdict = "ok"
            if wrong is not None:
                verdict = "changed" if copy.fitness == "changed" else "rotten"
            checked = Checked(*facts, verdict, wrong or (), copy.owned, read)
        self._note(checked, copy)
        self.found.append(checked)
        self._seen[key] = checked.verdict == "ok"
        return checked.verdict == "ok"

    def known(self, what: str) -> bool:
        """Whether a thing was found sound so lately that it is passed over."""
        fresh = self.when.age(what) < self.older_than
        self.passed += fresh
        return fresh

    def hear(self, read: int) -> None:
        """Count what was read of packs."""
        self._done = min(self._done + read, self.total)
        self._progress(Progress("verify", self._done, self.total))

    def _note(self, checked: Checked, copy: Copy) -> None:
        """Record a file anew whose state alone had changed; tell of one that is rotten."""
        if checked.verdict == "ok" and self.whole:
            with suppress(OSError):
                self.when.note(_state_key(copy, checked.sha256))
        if checked.verdict == "ok" and copy.fitness == "changed" and self.whole:
            # a read-only library is none the worse for it
            with suppress(DiskError, LockedError), Writer(self.home) as writer, writer.commit():
                if copy.owned:
                    files.renew(writer, checked.sha256)
                else:
                    place = Place(copy.path, State.of(copy.path.stat()), places.now())
                    places.adopt(writer, checked.sha256, place, None)
        if checked.verdict == "rotten":
            few = ", ".join(checked.tensors[:3]) + ("…" if len(checked.tensors) > 3 else "")
            what = f"{len(checked.tensors)} tensors ({few})" if few else "bytes outside of tensors"
            self.faults.append(
                f"{checked.path}: {what} of {checked.name} are not what was added, though size and time are. "
                "Copy the file from another place and add that; look after the disk."
            )

    def _read(
        self, manifest: Manifest, index: int, copy: Copy
    ) -> tuple[tuple[str, ...] | None, int]:
        """Return the damaged tensors, None if all is well; and how much was read."""
        file = manifest.files[index]
        wanted = {
            (tensor.at, tensor.spec.nbytes): (name, tensor.blake3)
            for name, tensor in manifest.tensors.items()
            if tensor.file == index and tensor.at is not None and tensor.blake3 is not None
            if tensor.spec.nbytes
        }
        if copy.path.stat().st_size != file.size:
            return tuple(name for name, _ in wanted.values()), 0
        if self._sample < 1 and wanted and copy.fitness == "ok":
            chosen = list(_chosen(sorted(wanted), self._sample, self._chance))
            found = _hashed(copy.path, chosen)
            wrong = tuple(wanted[r][0] for r in chosen if found[r] != wanted[r][1])
            return wrong or None, sum(size for _, size in chosen)
        try:
            read = survey(copy.path, sorted(wanted), progress=self._hear)
        except (IntegrityError, CorruptError):
            return (), 0  # someone is writing to it
        if read.digests["sha256"] == file.sha256:
            return None, file.size
        wrong = tuple(name for run, (name, b3) in wanted.items() if read.runs[run] != b3)
        return wrong, file.size

    def _hear(self, event: Event) -> None:
        if isinstance(event, Progress):
            event = Progress("verify", self._done + event.done, self.total)
        self._progress(event)


def _state_key(copy: Copy, sha256: str) -> str:
    """Return by what it is remembered that a file was read: another state is another file."""
    found = copy.path.stat()
    return f"file {sha256} {copy.path} {found.st_size} {found.st_mtime_ns} {found.st_ino}"


def _chosen(runs: Sequence[Run], sample: float, chance: random.Random) -> Iterator[Run]:
    """Choose runs at random until they have their share of the bytes; yield them in order."""
    order = list(runs)
    chance.shuffle(order)
    left = sample * sum(size for _, size in runs)
    chosen = set()
    for run in order:
        if left <= 0:
            break
        chosen.add(run)
        left -= run[1]
    yield from (run for run in runs if run in chosen)


def _hashed(path: Path, runs: Iterable[Run]) -> dict[Run, str]:
    found = {}
    with path.open("rb", buffering=0) as file:
        for offset, size in runs:
            digest, left = blake3(), size
            file.seek(offset)
            while left and (part := file.read(min(_CHUNK, left))):
                digest.update(part)
                left -= len(part)
            found[offset, size] = digest.hexdigest()
    return found
