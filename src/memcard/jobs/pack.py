"""Store checkpoints in little space: as differences to others, or as recipes, in packs.

What is packed is decoded right after it was encoded, and its packs are read back from the disk and compared
with their digests before it counts; only then is a plain copy removed that the library owns. Files that are not
the library's are read and left alone, unless their replacement is asked for.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from typing import Any

from memcard.core.give_back import give_back
from memcard.core.one_thread import one_thread
from memcard.core.progress import Listener, Progress, silent
from memcard.errors import FormatError, IntegrityError, LockedError, MemcardError, NotFoundError
from memcard.jobs._pack_bases import Bases
from memcard.jobs._pack_dry import would_take
from memcard.jobs._pack_free import free, replace_originals
from memcard.jobs._pack_plain import Plain, Source, open_plain
from memcard.jobs._pack_recipes import Recipe
from memcard.jobs._pack_recorded import recipe_of
from memcard.jobs._pack_shelf import Candidate, Shelf
from memcard.jobs._pack_training import path_of
from memcard.jobs._pack_write import Plan, gone, items_of, prove, record, write
from memcard.store import manifest as manifests
from memcard.store import packed as records
from memcard.store import refs
from memcard.store._pack_blocks import make_ready
from memcard.store._pack_memory import release
from memcard.store.layout import Layout, check
from memcard.store.manifest import Manifest, Tensor
from memcard.store.objects import pack_path
from memcard.store.refs import Version
from memcard.store.writer import Writer

_NEW = 0.05  # share of a checkpoint
_TRIES = 3  # where another process collects what has no name yet


@dataclass(frozen=True, slots=True)
class Done:
    """What became of one checkpoint, or would become of it.

    Attributes:
        name: in the library.
        size: bytes of its files.
        stored: bytes it takes in packs beside what was there; its record and skeleton not counted.
        how: in a few words: alone, as difference to which other, or the recipe.
        freed: bytes of plain copies of the library that were removed.
        replaced: originals that were put into the library's trash.
        skipped: why it was left as it is; "" if it was packed.
    """

    name: str
    size: int
    stored: int = 0
    how: str = ""
    freed: int = 0
    replaced: tuple[str, ...] = ()
    skipped: str = ""


@dataclass(frozen=True, slots=True)
class PackedAll:
    """What packing did, one entry for each checkpoint.

    Attributes:
        done: the entries.
        dry_run: whether nothing was done; sizes are estimates then.
    """

    done: tuple[Done, ...] = ()
    dry_run: bool = False

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
            "dry_run": self.dry_run,
        }


@dataclass
class _Job:
    home: Layout
    shelf: Shelf
    threads: int
    keep_files: bool
    recipes: bool
    replace_originals: bool
    progress: Listener
    versions: dict[str, tuple[str, Version]]
    total: int = 0
    finished: int = 0  # bytes
    done: dict[str, Done] = field(default_factory=dict)
    under_way: list[str] = field(default_factory=list)

    def tell(self, more: int = 0) -> None:
        """Say how far it is: ``more`` bytes behind what is finished."""
        done = min(self.finished + more, self.total)
        self.progress(Progress("pack", done, self.total))


def pack(
    home: Layout,
    names: Sequence[str] = (),
    *,
    threads: int | None = None,
    keep_files: bool = False,
    recipes: bool = True,
    replace_originals: bool = False,
    dry_run: bool = False,
    progress: Listener = silent,
) -> PackedAll:
    """Pack checkpoints of the library; those that are packed already cost nothing.

    May be stopped at any moment and begun again: what was packed by then stays.

    Args:
        home: the library.
        names: which; none: all.
        threads: that encode; None for as many as there are processors, at most 2: of more, each
            takes 30 MB of memory.
        keep_files: do not remove the library's own plain copies afterwards.
        recipes: look for casts, merges and bakes of packed checkpoints.
        replace_originals: put the users' own files into the library's trash once they are packed and
            read back. A path that leads through a link is left alone.
        dry_run: only estimate, from a few values, how much space each would take. How one was trained from
            another is not looked for then, so a save of a training may take less.
        progress: hears how many bytes are done.

    Raises:
        NotFoundError: there is no such checkpoint.
        IntegrityError: what was written does not read back as it was; nothing was removed.
        DiskError: the disk is full or failing.
    """
    check(home)
    versions = {v.manifest: (r.name, v) for r in refs.every(home) for v in r.versions}
    wanted = _order(home, names)
    with one_thread(), closing(Shelf(home, versions)) as shelf:
        if dry_run:
            sizes = [(version.manifest, name) for name, version in wanted]
            found = would_take(shelf, sizes, recipes=recipes)
            listed = [
                Done(name, size, stored, how, skipped=fault)
                for name, size, stored, how, fault in found
            ]
            return PackedAll(tuple(listed), dry_run=True)
        count = threads or min(2, os.cpu_count() or 1)
        job = _Job(home, shelf, count, keep_files, recipes, replace_originals, progress, versions)
        job.total = sum(version.size for _, version in wanted)
        for _, version in wanted:
            job.tell()
            _one(job, version.manifest)
            shelf.trim()
        job.tell()
    return PackedAll(tuple(job.done.values()))


def _order(home: Layout, names: Sequence[str]) -> list[tuple[str, Version]]:
    """List what to pack: originals before what says it was made of them, wide dtypes first, runs in order."""
    if names:
        chosen = [refs.find(home, name) for name in names]
    else:
        chosen = [(ref, version) for ref in refs.every(home) for version in ref.versions]
    unique = {version.manifest: (ref.name, version) for ref, version in reversed(chosen)}

    def rank(pair: tuple[str, Version]) -> tuple[bool, int, str, list[tuple[int, str]]]:
        try:
            manifest = manifests.get(home, pair[1].manifest)
        except MemcardError:  # removed at this moment, or damaged: said when it is its turn
            return True, 0, pair[1].at, _natural(pair[0])
        widths = [t.spec.dtype.block_bytes for t in manifest.tensors.values()]
        return bool(manifest.parents), -max(widths, default=0), pair[1].at, _natural(pair[0])

    return sorted(unique.values(), key=rank)


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a key by which ``step-90`` comes before ``step-100``."""
    parts = re.findall(r"\d+|\D+", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _one(job: _Job, manifest_id: str) -> bool:
    """Pack a checkpoint unless that is done or under way; tell whether it is packed now."""
    if manifest_id in job.under_way or manifest_id not in job.versions:
        return job.shelf.record(manifest_id) is not None
    if manifest_id not in job.done:
        job.under_way.append(manifest_id)
        job.done[manifest_id] = _made(job, manifest_id)
        job.under_way.pop()
        job.finished += job.versions[manifest_id][1].size
    return not job.done[manifest_id].skipped


def _made(job: _Job, manifest_id: str) -> Done:
    home, (name, version) = job.home, job.versions[manifest_id]
    try:
        manifest = manifests.get(home, manifest_id)
    except MemcardError as error:
        return Done(name, version.size, skipped=str(error))
    before = job.shelf.record(manifest_id)
    new, stored, how = before is None, 0 if before is None else before.stored, "packed already"
    if new:
        if fault := unfit(manifest):
            return Done(name, manifest.size, skipped=fault)
        with ExitStack() as stack:
            try:
                source = open_plain(stack, home, manifest)
            except MemcardError as error:
                return Done(name, manifest.size, skipped=str(error))
            stored, how = _packed(job, stack, manifest_id, manifest, source)
    what = (manifest, manifest_id)
    try:
        replaced = replace_originals(home, name, *what, proven=new) if job.replace_originals else ()
        freed = 0 if job.keep_files else free(home, *what, proven=new)
    except (FormatError, IntegrityError, NotFoundError) as error:
        if new:
            raise
        return Done(name, manifest.size, how=how, skipped=str(error))  # its packs have rotted
    return Done(name, manifest.size, stored, how, freed, replaced)


def _packed(
    job: _Job, stack: ExitStack, manifest_id: str, manifest: Manifest, source: Source
) -> tuple[int, str]:
    """Pack a checkpoint; once more from the start if `gc` puts packs away that are needed for it."""
    lost: list[str] = []
    for _ in range(_TRIES):
        try:
            return _attempt(job, stack, manifest_id, manifest, source)
        except (FormatError, IntegrityError, NotFoundError, FileNotFoundError):
            if not (lost := job.shelf.put_away()):
                raise
            job.shelf.forget(lost)
    raise _taken_away(job, lost[0])


def _taken_away(job: _Job, pack: str) -> LockedError:
    return LockedError(
        f"{pack_path(job.home, pack)}: was put away {_TRIES} times before the checkpoint it belongs to was on "
        "record. Let the other memcard finish, then run `memcard pack` again."
    )


def _attempt(
    job: _Job, stack: ExitStack, manifest_id: str, manifest: Manifest, source: Source
) -> tuple[int, str]:
    """Write what is missing, read it back from the disk, then write the record."""
    shelf, target = job.shelf, Plain(manifest, source)
    near: list[Candidate] = []
    recipe: Recipe | None = None
    plan = Plan(manifest_id, manifest, source, None)
    if is_new(plan, shelf):
        near = shelf.near(manifest_id, manifest, target)
        if job.recipes:
            recipe = recipe_of(shelf, manifest, target, near, lambda other: _one(job, other))
        if recipe is None:
            recipe = path_of(shelf, manifest, target, near)
    if recipe is not None:
        stack.callback(recipe.checkpoint.close)
        plan = Plan(manifest_id, manifest, source, recipe)
    bases = Bases([c for c in near if shelf.record(c.id) is not None], shelf)
    missing = plan.missing(shelf.objects)
    foretold = recipe.names if recipe is not None else ()
    left = [(name, tensor) for name, tensor in missing if name not in foretold]
    base = bases.choose(left, source) if left else None
    taken = 0

    def progress(more: int) -> None:
        nonlocal taken
        taken += more
        job.tell(taken)

    lost: list[str] = []
    _make_room(missing, with_base=recipe is not None or base is not None)
    for _ in range(_TRIES):
        with Writer(job.home) as writer:
            written = write(shelf, plan, bases, job.threads, progress)
            prove(shelf, plan, job.threads)
            title = _title(shelf, recipe, base, written)
            with writer.commit():
                found = record(shelf, plan, title, written)
                lost = gone(shelf, found)
                if not lost:
                    records.put(writer, found)
                    shelf.packed(manifest_id)
                    return written, title
        shelf.forget(lost)
    raise _taken_away(job, lost[0])


def _make_room(missing: Sequence[tuple[str, Tensor]], *, with_base: bool) -> None:
    """Give back what looking for recipes took: encoding is where most memory is needed."""
    release()
    for item in items_of(missing):
        make_ready(item, with_base=with_base)
    give_back()


def is_new(plan: Plan, shelf: Shelf) -> bool:
    """Whether enough of a checkpoint is in no pack for relatives to be worth looking for."""
    sizes = {t.blake3: t.spec.nbytes for t in plan.manifest.tensors.values() if t.blake3}
    new = sum(tensor.spec.nbytes for _, tensor in plan.missing(shelf.objects))
    return new > _NEW * sum(sizes.values())


def unfit(manifest: Manifest) -> str:
    """Return why a checkpoint cannot be packed; "" if it can."""
    odd = [n for n, t in manifest.tensors.items() if t.at is None and t.spec.nbytes]
    if odd:
        return f"its tensors are compressed in the file, or strided (such as {odd[0]})"
    return ""


def _title(shelf: Shelf, recipe: Recipe | None, base: str | None, written: int) -> str:
    if recipe is not None:
        return recipe.title
    if not written:
        return "every tensor was there already"
    if base is not None:
        return f"difference to {shelf.candidates[base].manifest.sha256[:12]}"
    return "alone"
