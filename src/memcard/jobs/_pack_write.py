"""Write what is missing of a checkpoint into packs, read it back, and record it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from blake3 import blake3

from memcard.core.checkpoint import Checkpoint
from memcard.errors import IntegrityError
from memcard.jobs._pack_bases import Bases, item_of
from memcard.jobs._pack_plain import Reader, Source
from memcard.jobs._pack_recipes import Recipe
from memcard.jobs._pack_shelf import Shelf
from memcard.jobs._stored import Segment, bones, keeping_for, segments
from memcard.store.manifest import Manifest, Tensor
from memcard.store.objects import Objects, pack_path
from memcard.store.pack import BaseReader, BaseRef, PackWriter
from memcard.store.packed import Packed, computed_key

PACK_SIZE = 256 << 20  # bytes; a pack is finished when it has more
_PIECE = 4 << 20
_SMALL = 1 << 16  # bytes; less is not worth another thread
_RAW = 64  # values; a smaller tensor is kept as it is


@dataclass
class Plan:
    """What of a checkpoint goes into packs.

    Attributes:
        id: of the manifest.
        manifest: of the checkpoint.
        source: its values.
        recipe: that gives some of its tensors, if there is one.
        encoded: keys of what was read from the source, had these digests, and was decoded again.
        packs: names of the packs they were written to.
    """

    id: str
    manifest: Manifest
    source: Source
    recipe: Recipe | None
    encoded: set[str] = field(default_factory=set)
    packs: list[str] = field(default_factory=list)

    @property
    def exact(self) -> frozenset[str]:
        """Names of the tensors the recipe gives bit for bit."""
        return self.recipe.exact if self.recipe is not None else frozenset()

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every tensor whose values are to be stored, equal ones once."""
        seen: set[str] = set()
        for name, tensor in self.manifest.tensors.items():
            stored = tensor.blake3 and tensor.spec.nbytes and name not in self.exact
            if stored and tensor.blake3 and tensor.blake3 not in seen:
                seen.add(tensor.blake3)
                yield name, tensor

    def missing(self, objects: Objects) -> list[tuple[str, Tensor]]:
        """List those that are in no pack; what needs another checkpoint's recipe to be read does not count."""
        found = []
        for name, tensor in self.tensors():
            one = objects.get(tensor.blake3 or "")
            if one is None or one.kind == "residual":
                found.append((name, tensor))
        return found

    def computed(self, name: str) -> BaseRef | None:
        """Return what the recipe gives for a tensor, as a base."""
        if self.recipe is None or name not in self.recipe.names:
            return None
        made = self.recipe.checkpoint
        key = computed_key(self.id, name)
        return BaseRef(key, lambda at, out: _compute(made, name, at, out), depth=0)

    def reader(self, objects: Objects) -> BaseReader:
        """Return what reads the objects of this checkpoint, those that need its recipe too."""
        if self.recipe is None:
            return objects.reader()
        made = self.recipe.checkpoint
        names = {computed_key(self.id, name): name for name in self.recipe.names}

        def compute(key: str, at: int, out: memoryview) -> bool:
            name = names.get(key)
            if name is not None:
                _compute(made, name, at, out)
            return name is not None

        return objects.reader(compute)

    def bones(self) -> Iterator[tuple[str, int, Reader]]:
        """Yield the skeletons that are too large to be kept by themselves."""
        for number, file in enumerate(self.manifest.files):
            if not file.skeleton.stored and file.skeleton.size:
                yield file.skeleton.blake3, file.skeleton.size, self.gaps(number)

    def gaps(self, number: int) -> Reader:
        """Return what reads the skeleton of a file, which lies in pieces."""
        runs = [s for s in segments(self.manifest, number) if s.key is None]
        return _gaps(runs, self.source.file(number))


def items_of(tensors: Sequence[tuple[str, Tensor]]) -> list[int]:
    """List the bytes of a value of tensors; none if they are few, so that it matters little how they are packed."""
    sizes: dict[int, int] = {}
    for _, tensor in tensors:
        item = item_of(tensor.spec)
        sizes[item] = sizes.get(item, 0) + tensor.spec.nbytes
    return [item for item, size in sizes.items() if size > _PIECE]


def _compute(made: Checkpoint, name: str, at: int, out: memoryview) -> None:
    with keeping_for(made):
        made.readinto(name, out, at)


def _gaps(runs: Sequence[Segment], read: Reader) -> Reader:
    def gaps(at: int, out: memoryview) -> None:
        done = 0
        for run in runs:
            skip = at + done - run.within
            if 0 <= skip < run.size and done < len(out):
                size = min(run.size - skip, len(out) - done)
                read(run.start + skip, out[done : done + size])
                done += size

    return gaps


def write(
    shelf: Shelf, plan: Plan, bases: Bases, threads: int, progress: Callable[[int], None]
) -> int:
    """Write all that is in no pack yet; return the bytes of the new packs.

    Args:
        shelf: with the library; gets the new packs.
        plan: of the checkpoint.
        bases: to which differences are taken.
        threads: that encode.
        progress: hears how many bytes were taken since the last time.
    """
    written, jobs = 0, list(_additions(shelf, plan, bases))
    while jobs:
        with PackWriter(shelf.home.packs, threads=threads) as writer:
            while jobs and writer.size < PACK_SIZE:
                key, size, read, options = jobs.pop(0)
                writer.add(key, size, read, **options())
                plan.encoded.add(key)
                progress(size)
            path = writer.commit()
        written += path.stat().st_size
        shelf.objects.include(path.stem)
        plan.packs.append(path.stem)
    return written


_Addition = tuple[str, int, Reader, Callable[[], dict[str, Any]]]


def _additions(shelf: Shelf, plan: Plan, bases: Bases) -> Iterator[_Addition]:
    for name, tensor in plan.missing(shelf.objects):
        key, read = tensor.blake3 or "", plan.source.reader(name)
        yield key, tensor.spec.nbytes, read, _options(shelf, plan, bases, name, tensor)
    for key, size, read in plan.bones():
        if key not in shelf.objects:
            yield key, size, read, lambda: {"kind": "skeleton"}


def _options(
    shelf: Shelf, plan: Plan, bases: Bases, name: str, tensor: Tensor
) -> Callable[[], dict[str, Any]]:
    def options() -> dict[str, Any]:
        item = item_of(tensor.spec)
        if tensor.spec.elements < _RAW:
            return {"item": item, "codec": "raw"}
        computed = plan.computed(name)
        # Of two residuals of the same values a reader could take the one whose recipe it does not have.
        if computed is not None and tensor.blake3 not in shelf.objects:
            codec = plan.recipe.codecs.get(name) if plan.recipe else None
            return {"item": item, "kind": "residual", "base": computed, "codec": codec}
        return {"item": item, "base": bases.of(name, tensor), "weigh": True}

    return options


def prove(shelf: Shelf, plan: Plan, threads: int) -> None:
    """See that the disk has all that the checkpoint needs, and that it is what its files consist of.

    What was written now was decoded when it was encoded, so that the packs are on the disk as they were
    written is enough; what was there before, bases too, is decoded. What a recipe gives exactly was
    computed from packs and compared already.

    Raises:
        IntegrityError: a pack gives other bytes, or the plain copy is not what was added.
    """
    known = shelf.proven | _written(shelf, plan)
    todo = [key for key in _needed(shelf, plan) if key not in known]
    _decode(shelf, plan, todo, threads)
    new = (*(known - shelf.proven), *todo)
    shelf.proven.update(k for k in new if (o := shelf.objects.get(k)) and o.kind != "residual")
    _source_is_known(shelf, plan)


def _written(shelf: Shelf, plan: Plan) -> set[str]:
    """Read the new packs back; return the keys that are proven thereby."""
    there = [name for name in plan.packs if shelf.objects.has_pack(name)]
    for name in there:
        pack = shelf.objects.include(name)
        if not pack.is_intact():
            raise IntegrityError(
                f"{pack.path}: the disk gives back other bytes than were written just now. Nothing was removed. "
                "Check the disk, then run `memcard pack` again."
            )
    found = ((key, shelf.objects.pack_of(key)) for key in plan.encoded)
    return {key for key, pack in found if pack is not None and pack.name in there}


def _needed(shelf: Shelf, plan: Plan) -> list[str]:
    """List the objects of a checkpoint, and the bases of those that were not decoded with theirs."""
    keys = [t.blake3 for _, t in plan.tensors() if t.blake3]
    keys += [key for key, _, _ in plan.bones()]
    found = dict.fromkeys(keys)
    for key in keys:
        one = shelf.objects.get(key)
        while one is not None and one.base is not None and one.base not in found:
            one = shelf.objects.get(one.base)
            if one is not None:
                found[one.key] = None
    return list(found)


def _decode(shelf: Shelf, plan: Plan, todo: Sequence[str], threads: int) -> None:
    """Decode objects from the packs and compare them with their checks."""
    read = plan.reader(shelf.objects)

    def check(key: str) -> None:
        pack = shelf.objects.pack_of(key)
        if pack is None:
            raise IntegrityError(
                f"{plan.id}: object {key} is in no pack, though it was just written."
            )
        pack.check(key, read)

    sizes = {key: one.size for key in todo if (one := shelf.objects.get(key)) is not None}
    for key in todo:
        if sizes.get(key, 0) <= _SMALL:
            check(key)
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(check, [key for key in todo if sizes.get(key, 0) > _SMALL]):
            pass


def _source_is_known(shelf: Shelf, plan: Plan) -> None:
    """See that the plain copy consists of what the manifest says."""
    for name, tensor in plan.manifest.tensors.items():
        if tensor.blake3 and tensor.spec.nbytes and tensor.blake3 not in plan.encoded:
            found = _digest(plan.source.reader(name), tensor.spec.nbytes)
            if found != tensor.blake3:
                raise _changed(plan, name, found, tensor.blake3)
    for number, file in enumerate(plan.manifest.files):
        skeleton = file.skeleton
        found = _digest(plan.gaps(number), skeleton.size)
        if found != skeleton.blake3:
            raise _changed(
                plan, f"the skeleton of {file.name or 'the file'}", found, skeleton.blake3
            )
        if skeleton.stored:
            bones(shelf.home, skeleton.blake3, skeleton.size)


def _digest(read: Reader, size: int) -> str:
    whole, buffer = blake3(), memoryview(bytearray(min(_PIECE, size)))
    for at in range(0, size, _PIECE):
        part = buffer[: min(_PIECE, size - at)]
        read(at, part)
        whole.update(part)
    return whole.hexdigest()


def _changed(plan: Plan, what: str, found: str, wanted: str) -> IntegrityError:
    return IntegrityError(
        f"{plan.manifest.sha256[:16]}: {what} has the BLAKE3 {found[:16]}… in the plain copy, and was added "
        f"with {wanted[:16]}…. The copy was changed, or the disk fails; nothing was removed. Add it again: "
        "memcard add FILE."
    )


def record(shelf: Shelf, plan: Plan, title: str, stored: int) -> Packed:
    """Return the record of a checkpoint all whose objects are in packs."""
    packs: dict[str, None] = {}
    for _, tensor in plan.tensors():
        packs |= dict.fromkeys(shelf.objects.packs_of(tensor.blake3 or ""))
    for key, _, _ in plan.bones():
        packs |= dict.fromkeys(shelf.objects.packs_of(key))
    recipe = plan.recipe
    if recipe is None:
        return Packed(plan.id, tuple(packs), None, title, (), stored)
    return Packed(plan.id, tuple(packs), recipe.document, title, recipe.sources, stored)


def gone(shelf: Shelf, found: Packed) -> list[str]:
    """List the packs of a record that another process has put away meanwhile; ask under the lock."""
    return [name for name in found.packs if not pack_path(shelf.home, name).exists()]
