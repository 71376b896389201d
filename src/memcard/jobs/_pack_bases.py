"""Which stored tensor a new one is best kept as a difference to."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from memcard.core.tensors import Spec
from memcard.errors import IntegrityError
from memcard.store.layout import Layout
from memcard.store.manifest import Manifest, Tensor
from memcard.store.objects import Objects
from memcard.store.pack import BaseRef, estimate
from memcard.store.whereabouts import copies

# Fills the given memory with the bytes from this offset on.
Reader = Callable[[int, memoryview], None]

DEPTH = 2  # differences upon differences; each one is decoded to read the last
_LOOKED_AT = 6  # large tensors by which a base is judged
_TRIED = 3  # candidates, the best first
_PAYS = 0.9  # of the size alone


@dataclass(frozen=True)
class Candidate:
    """A packed checkpoint that others may be kept as differences to."""

    id: str
    manifest: Manifest


def item_of(spec: Spec) -> int:
    """Return the bytes of a value as codecs see it."""
    size = spec.dtype.block_bytes
    return size if spec.dtype.block == 1 and size in (1, 2, 4, 8) else 1


class Names:
    """Finds the namesake of a tensor, also behind a prefix such as ``model.``."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors
        self._ends: dict[str, str | None] = {}
        for name in tensors:
            for end in _ends(name):
                self._ends[end] = None if end in self._ends else name

    def find(self, name: str, spec: Spec) -> Tensor | None:
        """Return the tensor of this name, or the only one whose name ends alike, of equal dtype and shape."""
        if name in self._tensors:
            found: str | None = name
        else:
            found = next((f for end in _ends(name) if (f := self._ends.get(end))), None)
        tensor = None if found is None else self._tensors[found]
        return tensor if tensor is not None and tensor.spec == spec else None


def _ends(name: str) -> list[str]:
    """Return what is left of a name without its first parts, at least three parts, the longest first."""
    parts = name.split(".")
    return [".".join(parts[i:]) for i in range(max(1, len(parts) - 2))]


class Bases:
    """The base of one new checkpoint: the candidate with the least difference in some large tensors."""

    def __init__(self, candidates: Sequence[Candidate], objects: Objects) -> None:
        self._objects = objects
        self._names = {c.id: Names(c.manifest.tensors) for c in candidates}
        self._order: list[str] = []

    def choose(self, tensors: Sequence[tuple[str, Tensor]], source: Source) -> str | None:
        """Look at the largest tensors; return the id of the best candidate, None if none is any good.

        Args:
            tensors: those to store.
            source: gives their values.
        """
        largest = sorted(tensors, key=lambda t: -t[1].spec.nbytes)[:_LOOKED_AT]
        alone = {name: self._alone(name, tensor, source) for name, tensor in largest}
        costs: dict[str, float] = {}
        for candidate in self._names:
            cost = 0.0
            for name, tensor in largest:
                found = self._share(name, tensor, candidate, source)
                cost += tensor.spec.nbytes * min(alone[name], found)
            costs[candidate] = cost
        # A tensor the best one lacks, such as a moment of an optimizer, may have a base in the next.
        self._order = sorted(costs, key=lambda c: costs[c])[:_TRIED]
        whole = sum(t.spec.nbytes * alone[n] for n, t in largest)
        if not self._order or costs[self._order[0]] > _PAYS * whole:
            self._order = []
            return None
        return self._order[0]

    def of(self, name: str, tensor: Tensor, source: Source) -> BaseRef | None:
        """Return what to store a tensor as a difference to; None: store it alone."""
        found = (self._base(name, tensor, candidate) for candidate in self._order)
        base = next((b for b in found if b is not None), None)
        if base is None:
            return None
        read = source.reader(name)
        alone, delta = estimate(read, tensor.spec.nbytes, item_of(tensor.spec), base.read)
        return base if delta < _PAYS * alone else None

    def _alone(self, name: str, tensor: Tensor, source: Source) -> float:
        return estimate(source.reader(name), tensor.spec.nbytes, item_of(tensor.spec))[0]

    def _share(self, name: str, tensor: Tensor, candidate: str, source: Source) -> float:
        base = self._base(name, tensor, candidate)
        if base is None:
            return 1.0
        item = item_of(tensor.spec)
        return estimate(source.reader(name), tensor.spec.nbytes, item, base.read)[1]

    def _base(self, name: str, tensor: Tensor, candidate: str) -> BaseRef | None:
        found = self._names[candidate].find(name, tensor.spec)
        key = None if found is None else found.blake3
        one = None if key is None else self._objects.get(key)
        if key is None or one is None or one.kind != "tensor" or one.depth >= DEPTH:
            return None
        return BaseRef(key, lambda at, out: self._objects.read(key, at, out), one.depth)


class Source:
    """Where the values of a new checkpoint are read from: a plain copy of each of its files."""

    def __init__(self, manifest: Manifest, files: Sequence[Reader]) -> None:
        self._manifest, self._files = manifest, files

    def reader(self, name: str) -> Reader:
        """Return what reads one tensor."""
        tensor = self._manifest.tensors[name]
        file, start = self._files[tensor.file], tensor.at or 0
        return lambda at, out: file(start + at, out)

    def file(self, number: int) -> Reader:
        """Return what reads one file."""
        return self._files[number]


def open_plain(stack: ExitStack, home: Layout, manifest: Manifest) -> Source:
    """Open plain copies of the files of a checkpoint, until ``stack`` is left.

    Raises:
        IntegrityError: of one there is none that is unchanged.
    """
    readers: list[Reader] = []
    for file in manifest.files:
        sound = [c for c in copies(home, file.sha256) if c.fitness == "ok"]
        if not sound:
            raise IntegrityError(
                f"no unchanged plain copy of {file.name or file.sha256[:16]} is at hand to pack it from."
            )
        handle = stack.enter_context(sound[0].path.open("rb", buffering=0))
        readers.append(_reader(handle.fileno(), sound[0].path))
    return Source(manifest, readers)


def _reader(fd: int, path: Path) -> Reader:
    def read(at: int, out: memoryview) -> None:
        done = 0
        while done < len(out):
            n = os.preadv(fd, [out[done:]], at + done)
            if n == 0:
                raise IntegrityError(f"{path}: became shorter while it was read.")
            done += n

    return read
