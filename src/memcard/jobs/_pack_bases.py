"""Which stored tensor a new one is best kept as a difference to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from blake3 import blake3

from memcard.core.tensors import Spec
from memcard.errors import IntegrityError
from memcard.jobs._pack_plain import Plain, Reader, Source
from memcard.jobs._pack_shelf import Candidate, Shelf
from memcard.store.manifest import Tensor
from memcard.store.pack import WORTH, BaseRef, PackedObject, cost, sampled

DEPTH = 2  # differences upon differences; each one is decoded to read the last
SAVES_DEPTH = 4  # the same for saves of a training, which nobody reads every day
MOST = 8  # candidates that are looked at
_LOOKED_AT = 9  # large tensors by which a base is judged
_TRIED = 3  # candidates, the best first
_SHALLOW = 1.05  # sizes: what a difference to a base that stands alone may take more
_KEYFRAME, _ROTATED = (
    7,
    1.2,
)  # the same behind so many differences to one base: then a new one is made


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

    def find(self, name: str, spec: Spec) -> str | None:
        """Return this name, or the only one that ends alike, of a tensor of equal dtype and shape."""
        if name in self._tensors:
            found: str | None = name
        else:
            found = next((f for end in _ends(name) if (f := self._ends.get(end))), None)
        return found if found is not None and self._tensors[found].spec == spec else None


def _ends(name: str) -> list[str]:
    """Return what is left of a name without its first parts, at least three parts, the longest first."""
    parts = name.split(".")
    return [".".join(parts[i:]) for i in range(max(1, len(parts) - 2))]


class _Look:
    """A few values of a tensor, and what it would take against others; sizes are estimates in bytes."""

    def __init__(self, name: str, tensor: Tensor, source: Source) -> None:
        self.name, self.tensor, self._item = name, tensor, item_of(tensor.spec)
        self._few = sampled(source.reader(name), tensor.spec.nbytes, self._item)
        self.alone = cost(self._few, self._item) * tensor.spec.nbytes
        self.costs: dict[str, float] = {}
        self.depths: dict[str, int] = {}

    def against(self, candidate: str, base: BaseRef) -> None:
        """Look at it as a difference to a base; one that does not pay does not count."""
        there = sampled(base.read, self.tensor.spec.nbytes, self._item)
        share = 0.0 if there == self._few else cost(self._few, self._item, there)
        if share * self.tensor.spec.nbytes < WORTH * self.alone:
            self.costs[candidate] = share * self.tensor.spec.nbytes
            self.depths[candidate] = base.depth

    def saved(self, candidate: str) -> float:
        """Return the bytes a candidate saves."""
        return self.alone - self.costs.get(candidate, self.alone)


class Bases:
    """The base of one new checkpoint: the candidate with the least difference in some large tensors."""

    def __init__(self, candidates: Sequence[Candidate], shelf: Shelf) -> None:
        """Name the candidates, those that are packed, the nearest first; ``MOST`` of them count."""
        self._shelf = shelf
        self._candidates = {c.id: c for c in candidates[:MOST]}
        self._names = {c.id: Names(c.manifest.tensors) for c in candidates[:MOST]}
        self._order: list[str] = []

    def choose(self, tensors: Sequence[tuple[str, Tensor]], source: Source) -> str | None:
        """Look at the largest tensors; return the id of the best candidate, None if none is any good.

        Args:
            tensors: those to store.
            source: gives their values.
        """
        largest = sorted(tensors, key=lambda t: -t[1].spec.nbytes)[:_LOOKED_AT]
        looked = [_Look(name, tensor, source) for name, tensor in largest]
        for look in looked:
            for candidate in self._names:
                base = self._base(look.name, look.tensor.spec, candidate)
                if base is not None:
                    look.against(candidate, base)
        # A tensor the best one lacks, such as a moment of an optimizer, may have a base in another.
        while looked and len(self._order) < _TRIED:
            best = self._best(looked)
            if best is None:
                break
            self._order.append(best)
            looked = [look for look in looked if best not in look.costs]
        return self._order[0] if self._order else None

    def _best(self, looked: Sequence[_Look]) -> str | None:
        """Return the candidate that saves most; None if none is worth it."""
        saved = {c: sum(look.saved(c) for look in looked) for c in self._names}
        least = (1 - WORTH) * sum(look.alone for look in looked)
        best = max(saved, key=lambda c: saved[c], default=None)
        if best is None or saved[best] < least:
            return None
        of_these = [look for look in looked if best in look.costs]
        if not any(look.depths[best] for look in of_these):
            return best
        # One more difference to decode, and what is built on it can serve no further: that must pay.
        flat = {
            c: sum(look.costs[c] for look in of_these)
            for c in self._names
            if all(look.depths.get(c) == 0 for look in of_these)
        }
        if not flat:
            return best
        other = min(flat, key=lambda c: flat[c])
        deep = sum(look.costs[best] for look in of_these)
        pays = _SHALLOW if self._served(best, of_these) < _KEYFRAME else _ROTATED
        return best if flat[other] > pays * deep else other

    def _served(self, candidate: str, looked: Sequence[_Look]) -> int:
        """Return how many checkpoints are kept as differences to this one."""
        built = self._shelf.followers()
        tensors = self._candidates[candidate].manifest.tensors
        names = (self._names[candidate].find(look.name, look.tensor.spec) for look in looked)
        return max((built[tensors[n].blake3 or ""] for n in names if n is not None), default=0)

    def of(self, name: str, tensor: Tensor) -> BaseRef | None:
        """Return what to store a tensor as a difference to, if that pays; None: store it alone."""
        found = (self._base(name, tensor.spec, candidate) for candidate in self._order)
        return next((b for b in found if b is not None), None)

    def _base(self, name: str, spec: Spec, candidate: str) -> BaseRef | None:
        found = self._names[candidate].find(name, spec)
        key = None if found is None else self._candidates[candidate].manifest.tensors[found].blake3
        one = None if key is None else self._shelf.objects.get(key)
        if found is None or key is None or one is None:
            return None
        save = name.endswith(".exp_avg_sq")
        if one.kind != "tensor" or one.depth >= (SAVES_DEPTH if save else DEPTH):
            return None
        return BaseRef(key, self._reader(candidate, found, one), one.depth)

    def _reader(self, candidate: str, name: str, one: PackedObject) -> Reader:
        """Return what reads a base: from a plain copy where it still has the bytes of the pack."""
        opened, objects = self._shelf.open(candidate), self._shelf.objects

        def packed(at: int, out: memoryview) -> None:
            objects.read(one.key, at, out)

        if not isinstance(opened, Plain):
            return packed
        copy = opened.source.reader(name)

        def read(at: int, out: memoryview) -> None:
            try:
                copy(at, out)
            except (OSError, IntegrityError):
                packed(at, out)
                return
            index, within = divmod(at, one.block_bytes)
            whole = within == 0 and len(out) == one.extent(index)[1]
            # Parts of blocks are read to estimate sizes only, and what is written is read back anyway.
            if whole and blake3(out).digest(16) != one.blocks[index].check:
                packed(at, out)

        return read
