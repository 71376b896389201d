"""Store checkpoints in little space: as differences to others, or as recipes, in packs.

What is packed is decoded from the disk and compared with its digests before it counts, and only then is a
plain copy removed that the library owns. Files that are not the library's are read and left alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Any

from memcard.core.progress import Listener, Progress, silent
from memcard.errors import IntegrityError, MemcardError
from memcard.jobs._pack_bases import Bases, Candidate, Reader, Source, item_of, open_plain
from memcard.jobs._pack_recipes import Recipe, distance, find_recipe
from memcard.jobs._stored import Segment, StoredCheckpoint, segments
from memcard.store import files as owned_files
from memcard.store import manifest as manifests
from memcard.store import packed as records
from memcard.store import refs
from memcard.store.layout import Layout, check
from memcard.store.manifest import Manifest, Tensor
from memcard.store.objects import Objects, all_packs, pack_path
from memcard.store.pack import BaseRef, PackWriter
from memcard.store.packed import Packed, computed_key
from memcard.store.refs import Version
from memcard.store.writer import Writer

PACK_SIZE = 256 << 20  # bytes; a pack is finished when it has more
_PIECE = 4 << 20
_NEW = 0.05  # share of a checkpoint
_CANDIDATES = 8  # checkpoints that are looked at as bases and as sources of a recipe


@dataclass(frozen=True, slots=True)
class Done:
    """What became of one checkpoint.

    Attributes:
        name: in the library.
        size: bytes of its files.
        stored: bytes it takes in packs beside what was there; its record and skeleton not counted.
        how: in a few words: alone, as difference to which other, or the recipe.
        freed: bytes of plain copies of the library that were removed.
        skipped: why it was left as it is; "" if it was packed.
    """

    name: str
    size: int
    stored: int = 0
    how: str = ""
    freed: int = 0
    skipped: str = ""


@dataclass(frozen=True, slots=True)
class PackedAll:
    """What packing did, one entry for each checkpoint."""

    done: tuple[Done, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of all files that were packed."""
        return sum(d.size for d in self.done if not d.skipped)

    @property
    def stored(self) -> int:
        """Bytes they take now."""
        return sum(d.stored for d in self.done)

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        return {
            "checkpoints": [asdict(d) for d in self.done],
            "size": self.size,
            "stored": self.stored,
        }


@dataclass
class _Job:
    home: Layout
    threads: int
    keep_files: bool
    recipes: bool
    progress: Listener
    versions: dict[str, tuple[str, Version]] = field(default_factory=dict)
    candidates: dict[str, Candidate] = field(default_factory=dict)
    done: dict[str, Done] = field(default_factory=dict)
    under_way: list[str] = field(default_factory=list)


def pack(
    home: Layout,
    names: Sequence[str] = (),
    *,
    threads: int | None = None,
    keep_files: bool = False,
    recipes: bool = True,
    progress: Listener = silent,
) -> PackedAll:
    """Pack checkpoints of the library; those that are packed already cost nothing.

    May be stopped at any moment and begun again: what was packed by then stays.

    Args:
        home: the library.
        names: which; none: all.
        threads: that encode; None for as many as there are processors, at most 4.
        keep_files: do not remove the library's own plain copies afterwards.
        recipes: look for casts, merges and bakes of packed checkpoints.
        progress: hears how many bytes are done.

    Raises:
        NotFoundError: there is no such checkpoint.
        IntegrityError: what was written does not read back as it was; nothing was removed.
        DiskError: the disk is full or failing.
    """
    check(home)
    job = _Job(home, threads or min(4, os.cpu_count() or 1), keep_files, recipes, progress)
    job.versions = {v.manifest: (r.name, v) for r in refs.every(home) for v in r.versions}
    wanted = _order(home, names)
    total, before = sum(v.size for _, v in wanted), 0
    for _, version in wanted:
        progress(Progress("pack", before, total))
        _one(job, version.manifest)
        before += version.size
    progress(Progress("pack", before, total))
    return PackedAll(tuple(job.done.values()))


def _order(home: Layout, names: Sequence[str]) -> list[tuple[str, Version]]:
    """List what to pack: the widest dtypes first, then what was there first."""
    if names:
        chosen = [refs.find(home, name) for name in names]
    else:
        chosen = [(ref, version) for ref in refs.every(home) for version in ref.versions]
    unique = {version.manifest: (ref.name, version) for ref, version in reversed(chosen)}

    def rank(pair: tuple[str, Version]) -> tuple[bool, int, str, str]:
        manifest = manifests.get(home, pair[1].manifest)
        widths = [t.spec.dtype.block_bytes for t in manifest.tensors.values()]
        return bool(manifest.parents), -max(widths, default=0), pair[1].at, pair[0]

    return sorted(unique.values(), key=rank)


def _one(job: _Job, manifest_id: str) -> bool:
    """Pack a checkpoint unless that is done or under way; tell whether it is packed now."""
    if manifest_id in job.under_way or manifest_id not in job.versions:
        return records.get(job.home, manifest_id) is not None
    if manifest_id not in job.done:
        job.under_way.append(manifest_id)
        job.done[manifest_id] = _made(job, manifest_id)
        job.under_way.pop()
    return not job.done[manifest_id].skipped


def _made(job: _Job, manifest_id: str) -> Done:
    home, manifest = job.home, manifests.get(job.home, manifest_id)
    name = job.versions[manifest_id][0]
    stored, how = 0, "packed already"
    if records.get(home, manifest_id) is None:
        fault = _unfit(manifest)
        if fault:
            return Done(name, manifest.size, skipped=fault)
        with ExitStack() as stack:
            try:
                source = open_plain(stack, home, manifest)
            except MemcardError as error:
                return Done(name, manifest.size, skipped=str(error))
            recipe = _recipe(job, manifest_id, manifest, source)
            if recipe is not None:
                stack.callback(recipe.checkpoint.close)
            objects = stack.enter_context(Objects(home, all_packs(home)))
            stored, how = _store(job, manifest_id, manifest, source, objects, recipe)
    freed = 0 if job.keep_files else _free(job, manifest, manifest_id)
    return Done(name, manifest.size, stored, how, freed)


def _recipe(job: _Job, manifest_id: str, manifest: Manifest, source: Source) -> Recipe | None:
    if not job.recipes:
        return None
    with Objects(job.home, all_packs(job.home)) as objects:
        if not _is_new(manifest, objects):
            return None
    near = [c for c in _near(job, manifest, source) if c.id != manifest_id]
    return find_recipe(job.home, manifest, source, near, lambda other: _one(job, other))


def _is_new(manifest: Manifest, objects: Objects) -> bool:
    """Whether enough of a checkpoint is in no pack for a recipe to be worth looking for."""
    sizes = {t.blake3: t.spec.nbytes for t in manifest.tensors.values() if t.blake3}
    new = sum(size for key, size in sizes.items() if key not in objects)
    return new > _NEW * sum(sizes.values())


def _unfit(manifest: Manifest) -> str:
    odd = [n for n, t in manifest.tensors.items() if t.at is None and t.spec.nbytes]
    if odd:
        return f"its tensors are compressed in the file, or strided (such as {odd[0]})"
    return ""


def _near(job: _Job, manifest: Manifest, source: Source) -> list[Candidate]:
    """Return the checkpoints that may be relatives: parents first, then those nearest in values."""
    if not job.candidates:
        for name in dict.fromkeys([*records.every(job.home), *job.versions]):
            with suppress(MemcardError):  # verify speaks of it
                job.candidates[name] = Candidate(name, manifests.get(job.home, name))
    loras = [c for c in job.candidates.values() if c.manifest.kind == "lora"]
    alike = [
        c
        for c in job.candidates.values()
        if c.manifest.architecture == manifest.architecture and c not in loras
    ]
    distances = {c.id: distance(job.home, manifest, source, c) for c in alike}

    def rank(candidate: Candidate) -> tuple[bool, float]:
        return candidate.manifest.sha256 not in manifest.parents, distances[candidate.id]

    if manifest.kind == "lora":
        return loras[-_CANDIDATES:]
    return sorted(alike, key=rank)[:_CANDIDATES] + loras[-_CANDIDATES:]


def _store(
    job: _Job,
    manifest_id: str,
    manifest: Manifest,
    source: Source,
    objects: Objects,
    recipe: Recipe | None,
) -> tuple[int, str]:
    """Write what is missing, check it from the disk, then write the record."""
    plan = _Plan(manifest_id, manifest, source, objects, recipe)
    packed = [c for c in _near(job, manifest, source) if records.get(job.home, c.id) is not None]
    plain_bases = Bases(packed, objects)
    missing = [(n, t) for n, t in plan.tensors() if t.blake3 not in objects]
    base = plain_bases.choose(missing, source) if missing and recipe is None else None
    with Writer(job.home) as writer:
        made, written = _write_packs(job, plan, plain_bases)
        for name in made:
            objects.include(name)
        record = _record(plan, objects)
        _verify(job, manifest_id, manifest, record)
        with writer.commit():
            records.put(writer, record)
    job.candidates[manifest_id] = Candidate(manifest_id, manifest)
    return written, _how(plan, recipe, base, job, written)


def _how(plan: _Plan, recipe: Recipe | None, base: str | None, job: _Job, written: int) -> str:
    if recipe is not None:
        return recipe.title
    if not written:
        return "every tensor was there already"
    if base is not None:
        return f"difference to {job.candidates[base].manifest.sha256[:12]}"
    return "alone"


class _Plan:
    """What of a checkpoint goes into packs."""

    def __init__(
        self,
        manifest_id: str,
        manifest: Manifest,
        source: Source,
        objects: Objects,
        recipe: Recipe | None,
    ) -> None:
        self.id, self.manifest, self.source = manifest_id, manifest, source
        self.objects, self.recipe = objects, recipe

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every tensor whose values are to be stored, equal ones once."""
        seen: set[str] = set()
        for name, tensor in self.manifest.tensors.items():
            if tensor.blake3 and tensor.spec.nbytes and tensor.blake3 not in seen:
                seen.add(tensor.blake3)
                yield name, tensor

    def computed(self, name: str) -> BaseRef | None:
        """Return what the recipe gives for a tensor, as a base."""
        if self.recipe is None or name not in self.recipe.names:
            return None
        made = self.recipe.checkpoint
        return BaseRef(
            computed_key(self.id, name), lambda at, out: made.readinto(name, out, at), depth=0
        )

    def bones(self) -> Iterator[tuple[str, int, Reader]]:
        """Yield the skeletons that are too large to be kept by themselves."""
        for number, file in enumerate(self.manifest.files):
            if not file.skeleton.stored and file.skeleton.size:
                runs = [s for s in segments(self.manifest, number) if s.key is None]
                yield (
                    file.skeleton.blake3,
                    file.skeleton.size,
                    _gaps(runs, self.source.file(number)),
                )


def _gaps(runs: Sequence[Segment], read: Reader) -> Reader:
    """Return what reads the skeleton of a file, which lies in pieces."""

    def gaps(at: int, out: memoryview) -> None:
        done = 0
        for run in runs:
            skip = at + done - run.within
            if 0 <= skip < run.size and done < len(out):
                size = min(run.size - skip, len(out) - done)
                read(run.start + skip, out[done : done + size])
                done += size

    return gaps


def _write_packs(job: _Job, plan: _Plan, bases: Bases) -> tuple[list[str], int]:
    """Write all that is in no pack yet; return the names of the new packs and their size."""
    made: list[str] = []
    written = 0
    jobs = list(_additions(plan, bases))
    while jobs:
        with PackWriter(job.home.packs, threads=job.threads) as writer:
            while jobs and writer.size < PACK_SIZE:
                key, size, read, options = jobs.pop(0)
                writer.add(key, size, read, **options())
            path = writer.commit()
            made.append(path.stem)
            written += path.stat().st_size
    return made, written


def _additions(plan: _Plan, bases: Bases) -> Iterator[tuple[str, int, Reader, Any]]:
    exact = plan.recipe.exact if plan.recipe is not None else frozenset[str]()
    for name, tensor in plan.tensors():
        if tensor.blake3 is None or _has(plan.objects, tensor.blake3) or name in exact:
            continue
        read = plan.source.reader(name)
        yield tensor.blake3, tensor.spec.nbytes, read, _options(plan, bases, name, tensor)
    for key, size, read in plan.bones():
        if key not in plan.objects:
            yield key, size, read, lambda: {"kind": "skeleton"}


def _has(objects: Objects, key: str) -> bool:
    """Whether a tensor is in a pack, to be read without the recipe of another checkpoint."""
    one = objects.get(key)
    return one is not None and one.kind != "residual"


def _options(plan: _Plan, bases: Bases, name: str, tensor: Tensor) -> Any:
    def options() -> dict[str, Any]:
        computed = plan.computed(name)
        item = item_of(tensor.spec)
        if computed is not None:
            return {"item": item, "kind": "residual", "base": computed}
        return {"item": item, "base": bases.of(name, tensor, plan.source)}

    return options


def _record(plan: _Plan, objects: Objects) -> Packed:
    packs: dict[str, None] = {}
    exact = plan.recipe.exact if plan.recipe is not None else frozenset[str]()
    for name, tensor in plan.manifest.tensors.items():
        if tensor.blake3 and tensor.spec.nbytes and name not in exact:
            packs |= dict.fromkeys(objects.packs_of(tensor.blake3))
    for file in plan.manifest.files:
        if file.skeleton.blake3 in objects:
            packs |= dict.fromkeys(objects.packs_of(file.skeleton.blake3))
    recipe = plan.recipe
    if recipe is None:
        return Packed(plan.id, tuple(packs))
    return Packed(plan.id, tuple(packs), recipe.document, recipe.title, recipe.sources)


def _verify(job: _Job, manifest_id: str, manifest: Manifest, record: Packed) -> None:
    """Decode every file from the disk and compare its digest.

    Raises:
        IntegrityError: it is not what was packed.
    """
    stored = StoredCheckpoint(job.home, manifest_id, record)
    try:
        for number, file in enumerate(manifest.files):
            if (found := digest_of(stored, number, file.size)) != file.sha256:
                raise IntegrityError(
                    f"{file.name or manifest_id}: what was packed reads back with the SHA-256 {found}, not "
                    f"{file.sha256}. The plain copy was changed, or the disk fails; nothing was removed."
                )
    finally:
        stored.close()


def digest_of(stored: StoredCheckpoint, number: int, size: int) -> str:
    """Return the SHA-256 of a file of a packed checkpoint."""
    whole, buffer = sha256(), memoryview(bytearray(_PIECE))
    for at in range(0, size, _PIECE):
        part = buffer[: min(_PIECE, size - at)]
        stored.read_file(number, at, part)
        whole.update(part)
    return whole.hexdigest()


def _free(job: _Job, manifest: Manifest, manifest_id: str) -> int:
    """Remove the library's own plain copies of a checkpoint that was packed and checked."""
    freed = 0
    with Writer(job.home) as writer, writer.commit():
        record = records.get(job.home, manifest_id)
        if record is None or not all(pack_path(job.home, p).exists() for p in record.packs):
            return 0
        for file in manifest.files:
            owned = owned_files.get(job.home, file.sha256)
            if owned is None:
                continue
            size = owned.path.stat().st_size if owned.path.stat().st_nlink == 1 else 0
            owned.path.unlink()
            job.home.file_state(file.sha256).unlink(missing_ok=True)
            freed += size
    return freed
