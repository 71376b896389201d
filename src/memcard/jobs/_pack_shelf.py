"""What a run of packing knows of the library: its packs, and which checkpoints may be relatives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from math import inf, isfinite, sqrt
from typing import Any
from zlib import crc32

import numpy as np

from memcard.core.checkpoint import Checkpoint
from memcard.errors import MemcardError
from memcard.jobs._discover_sample import read, wide
from memcard.jobs._pack_plain import Plain, open_plain
from memcard.jobs._stored import open_stored
from memcard.maths.floats import can_compute
from memcard.store import manifest as manifests
from memcard.store import packed as records
from memcard.store.layout import Layout
from memcard.store.manifest import Manifest
from memcard.store.objects import Objects, pack_path
from memcard.store.packed import Packed
from memcard.store.refs import Version

_TENSORS, _VALUES = 12, 256  # of a sketch; values of each tensor
_SMALL, _MEDIUM = (
    1024,
    1 << 19,
)  # tensors of so many values are sketched: one block of a pack at most
_FAR = 1.0  # norm of the difference by the norm: what is farther has nothing in common
_OPEN = 32  # checkpoints that stay open from one to the next

Sketch = Mapping[str, "np.ndarray[Any, np.dtype[np.float32]]"]


@dataclass(frozen=True)
class Candidate:
    """A checkpoint that another one may have been made from."""

    id: str
    manifest: Manifest


class Shelf:
    """Keeps open what several checkpoints need. Not for several threads."""

    def __init__(self, home: Layout, known: Mapping[str, tuple[str, Version]]) -> None:
        """Open the packs.

        Args:
            home: the library.
            known: by the ids of the manifests that have names, the name and its version; of a name the
                present version first.
        """
        self.names: dict[str, str] = {}
        seen: set[str] = set()
        for manifest_id, (name, version) in known.items():
            self.names[manifest_id] = f"{name}@{version.sha256[:8]}" if name in seen else name
            seen.add(name)
        self.home, self.objects = home, Objects.everything(home)
        self.candidates: dict[str, Candidate] = {}
        self.proven: set[str] = set()  # keys of objects that were read back in this run
        self._records: dict[str, Packed | None] = {}
        self._opened: dict[str, tuple[Checkpoint, ExitStack]] = {}
        self._sketches: dict[str, Sketch | None] = {}
        self.forget([name for name in self.objects.packs if self.objects.lacks_a_base(name)])
        for name in dict.fromkeys([*records.every(home), *known]):
            with suppress(MemcardError):  # verify speaks of it
                self.candidates[name] = Candidate(name, manifests.get(home, name))

    def record(self, name: str) -> Packed | None:
        """Return how a checkpoint is packed; None if it is not, or not to be read because a pack is missing."""
        if name not in self._records:
            self._records[name] = None
            with suppress(MemcardError):
                found = records.get(self.home, name)
                if found is not None and all(map(self.objects.has_pack, found.packs)):
                    self._records[name] = found
        return self._records[name]

    def packed(self, name: str) -> None:
        """Note that a checkpoint was packed just now."""
        self._records.pop(name, None)

    def put_away(self) -> list[str]:
        """List the packs that are open here and no longer in the library: `gc` put them away."""
        return [name for name in self.objects.packs if not pack_path(self.home, name).exists()]

    def forget(self, packs: Iterable[str]) -> None:
        """Note that packs are gone, and with them those that have differences to what they held."""
        gone = list(packs)
        while gone:
            for name in gone:
                self.objects.exclude(name)
            gone = [name for name in self.objects.packs if self.objects.lacks_a_base(name)]
        self._records.clear()
        self.proven.clear()

    def open(self, name: str) -> Checkpoint | None:
        """Return a checkpoint to look at, a plain copy if there is one; it stays the shelf's."""
        if name not in self._opened:
            with ExitStack() as stack:
                opened = self._open(stack, name)
                if opened is None:
                    return None
                self._opened[name] = opened, stack.pop_all()
        return self._opened[name][0]

    def trim(self) -> None:
        """Close what was not opened lately; nobody may be using anything."""
        for name in list(self._opened)[:-_OPEN]:
            self._opened.pop(name)[1].close()

    def close(self) -> None:
        """Close everything."""
        for _, stack in self._opened.values():
            stack.close()
        self._opened.clear()
        self.objects.close()

    def near(self, name: str, manifest: Manifest, target: Checkpoint) -> list[Candidate]:
        """Return the models that may be relatives: parents first, then those nearest in values."""
        mine = self._sketches[name] = _sketch(target)
        found: list[tuple[bool, float, Candidate]] = []
        for candidate in self.candidates.values():
            other = candidate.manifest
            if candidate.id == name or "lora" in (manifest.kind, other.kind):
                continue
            families = {other.architecture, manifest.architecture} - {None}
            if len(families) > 1:
                continue
            far, stranger = self._distance(mine, candidate.id), other.sha256 not in manifest.parents
            if far < _FAR or not stranger:
                found.append((stranger, far, candidate))
        return [candidate for *_, candidate in sorted(found, key=lambda f: f[:2])]

    def loras(self) -> list[Candidate]:
        """Return all LoRAs, the newest last."""
        return [c for c in self.candidates.values() if c.manifest.kind == "lora"]

    def followers(self) -> Counter[str]:
        """Count the objects that are kept as differences to each other one."""
        return self.objects.built_on()

    def _distance(self, mine: Sketch, name: str) -> float:
        if name not in self._sketches:
            self._sketches[name] = None
            with ExitStack() as stack, suppress(MemcardError):
                opened = self._opened[name][0] if name in self._opened else self._open(stack, name)
                self._sketches[name] = None if opened is None else _sketch(opened)
        theirs = self._sketches[name]
        return inf if theirs is None else _apart(mine, theirs)

    def _open(self, stack: ExitStack, name: str) -> Checkpoint | None:
        candidate = self.candidates[name]
        with suppress(MemcardError, OSError):
            return Plain(candidate.manifest, open_plain(stack, self.home, candidate.manifest))
        try:
            stored = open_stored(self.home, name, 0, self.objects, candidate.manifest)
        except MemcardError:
            return None  # no copy at hand
        stack.callback(stored.close)
        return stored


def _sketch(checkpoint: Checkpoint) -> Sketch:
    """Return a few values of a few tensors: those a hash chooses, so of relatives the same ones."""
    specs = {n: s for n, s in checkpoint.specs.items() if can_compute(s.dtype) and s.elements}
    # Moments of optimizers are not alike even a few steps later.
    fine = {n: s for n, s in specs.items() if not n.endswith((".exp_avg", ".exp_avg_sq"))}
    medium = {n: s for n, s in fine.items() if _SMALL <= s.elements <= _MEDIUM} or fine
    seen: Counter[str] = Counter()
    keys: dict[str, str] = {}
    for name in sorted(medium):  # a name without its first parts, for they may be a prefix
        end = f"{'.'.join(name.split('.')[-3:])} {medium[name].shape}"
        keys[f"{end} {seen[end]}"] = name
        seen[end] += 1
    chosen = sorted(keys, key=lambda key: crc32(key.encode("utf-8", "surrogatepass")))[:_TENSORS]
    found: dict[str, Any] = {}
    for key in chosen:
        count = min(_VALUES, medium[keys[key]].elements)
        with np.errstate(all="ignore"):  # too large a value is infinite: no relative of anything
            found[key] = wide(read(checkpoint, keys[key], [(0, count)])).astype(np.float32)
    return found


def _apart(mine: Sketch, theirs: Sketch) -> float:
    """Return the norm of the difference by the norm; infinite if they have no tensor in common."""
    both = [key for key in mine if key in theirs]
    with np.errstate(all="ignore"):
        apart = sum(float(np.nansum((mine[k] - theirs[k]) ** 2)) for k in both)
        whole = sum(float(np.nansum(mine[k] ** 2)) for k in both)
    if not both:
        return inf
    if not whole:
        return 0.0 if apart == 0 else inf
    return sqrt(apart / whole) if isfinite(apart) and isfinite(whole) else inf
