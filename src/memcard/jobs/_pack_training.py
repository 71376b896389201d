"""Find out how a checkpoint was trained from another one, and which of its tensors that foretells.

A few values of each end tell the numbers (``maths/training_fit.py``); a few values of each tensor tell whether it
is smaller as a difference to what is foretold than to the earlier tensor or by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from memcard.codecs import CODECS
from memcard.errors import MemcardError
from memcard.jobs._pack_bases import Names
from memcard.jobs._pack_plain import Plain
from memcard.jobs._pack_recipes import Recipe, digest_of
from memcard.jobs._pack_shelf import Candidate, Shelf
from memcard.jobs._stored import open_stored
from memcard.jobs._training_path import FIRST, MARK, SECOND, Document, PathCheckpoint
from memcard.maths.training_fit import Ends, fit
from memcard.maths.training_path import (
    Array,
    Path,
    foretell_first,
    foretell_second,
    foretell_weight,
)
from memcard.store.manifest import Manifest, Tensor
from memcard.store.pack import cost, sampled

DEPTH = 4  # saves each foretold from the one before, and what the first of them is a difference to
_TRIED = 3  # earlier checkpoints
_LEAST = 1 << 12  # bytes of a tensor
_FITTED = 24  # tensors, the largest ones
_PAYS = 0.97  # of what it takes otherwise
_WORTH = 0.01  # of the checkpoint: less is not worth the reading
_SIZED = 0.985  # the same for first moments, of which nobody makes more
_MOVED = (
    0.85  # the same for second moments: others can be differences to those that stand by themselves
)
_LEAVES = 3  # checkpoints on one on which nothing more can be built; then a new branch is begun
_DEEPER = 0.08  # of what the weights take: what must be saved to be one deeper
_TURNED = "turned_ans"


@dataclass(frozen=True)
class _Weight:
    """A weight with its moments at both ends; "" where there are none."""

    name: str
    old: str
    before: str
    after: str


class _Values:
    """The few values of each tensor of a checkpoint: 64 KiB of each, so they do not stay for all of a large one."""

    def __init__(self, reader: Plain | object, specs: Mapping[str, Tensor]) -> None:
        self._reader, self._tensors = reader, specs
        self._known: dict[str, Array] = {}

    def of(self, name: str) -> Array:
        if name not in self._known:
            size = self._tensors[name].spec.nbytes

            def read(at: int, out: memoryview) -> None:
                self._reader.readinto(name, out, at)  # type: ignore[union-attr]

            self._known[name] = np.frombuffer(sampled(read, size, 4), "<f4")
        return self._known[name]

    def forget(self, but: set[str]) -> None:
        """Let the values of all tensors go but these."""
        self._known = {n: v for n, v in self._known.items() if n in but}

    def moments(self, stem: str) -> tuple[Array, Array] | None:
        return (self.of(stem + FIRST), self.of(stem + SECOND)) if stem else None


class _Try:
    """One earlier checkpoint, what the way from it is like, and what that foretells of a few values."""

    def __init__(
        self,
        shelf: Shelf,
        target: Plain,
        manifest: Manifest,
        candidate: Candidate,
        alone: dict[str, float],
    ) -> None:
        self._shelf, self._manifest, self.candidate = shelf, manifest, candidate
        self._alone = alone  # shares of tensors by themselves, which all tries have in common
        opened = shelf.open(candidate.id)
        self.now, self.then = (
            _Values(target, manifest.tensors),
            _Values(opened, candidate.manifest.tensors),
        )
        self.weights = list(_paired(manifest, candidate.manifest)) if opened is not None else []
        self._there = {n for n, t in manifest.tensors.items() if self._stored(t)}
        self.path, self.document = Path(), Document(candidate.id, Path())
        self.saved = self.taken = 0.0  # bytes; taken by weights

    def look(self) -> None:
        """Fit the path, and choose the tensors for which it pays."""
        same = self._same()
        new = [w for w in self.weights if w.name not in self._there and w.name not in same]
        trained = [w for w in new if w.after] or new
        largest = sorted(trained, key=lambda w: -self._size(w.name))[:_FITTED]
        both = all(w.before for w in largest)
        self.path = fit([self._ends(w, both=both) for w in largest])
        mine = {n for w in largest for n in (w.name, w.after + FIRST, w.after + SECOND)}
        theirs = {n for w in largest for n in (w.old, w.before + FIRST, w.before + SECOND)}
        weights, first, second = {}, {}, {}
        for w in new:
            # Of two saves that follow each other this is the only way that does not end after two.
            if self._pays(w.name, w.old, self._weight(w), 1.0 if w.after else _PAYS):
                weights[w.name] = w.old, w.before if w.after else "", w.after
            if w.after and w.after + FIRST not in same:
                chosen = self._first(w)
                first.update({} if chosen is None else {w.after: chosen})
                if (
                    w.before
                    and w.after + SECOND not in same
                    and self._pays(w.after + SECOND, w.before + SECOND, self._second(w), _MOVED)
                ):
                    second[w.after] = w.before
            self.now.forget(mine)
            self.then.forget(theirs)
        self.now.forget(set())
        self.then.forget(set())
        self.document = Document(self.candidate.id, self.path, weights, first, second, same)

    def _same(self) -> dict[str, str]:
        """Find the tensors that both have, and that lie in no pack in a way that others can read."""
        theirs, found = self.candidate.manifest.tensors, dict[str, str]()
        by_key = {t.blake3: n for n, t in theirs.items() if t.blake3 and t.spec.nbytes}
        for name, tensor in self._manifest.tensors.items():
            old = by_key.get(tensor.blake3 or "")
            one = self._shelf.objects.get(tensor.blake3 or "")
            residual = one is not None and one.kind == "residual"
            if old is not None and residual and theirs[old].spec == tensor.spec:
                found[name] = old
                self.saved += tensor.spec.nbytes
        return found

    def _stored(self, tensor: Tensor) -> bool:
        one = self._shelf.objects.get(tensor.blake3 or "")
        return one is not None and one.kind != "residual"

    def _size(self, name: str) -> int:
        return self._manifest.tensors[name].spec.nbytes

    def _ends(self, w: _Weight, *, both: bool) -> Ends:
        before = self.then.moments(w.before) if both else None
        return Ends(self.then.of(w.old), self.now.of(w.name), before, self.now.moments(w.after))

    def _weight(self, w: _Weight) -> Array:
        out = np.empty_like(self.now.of(w.name))
        before = self.then.moments(w.before) if w.after else None
        foretell_weight(self.path, self.then.of(w.old), before, self.now.moments(w.after), out)
        return out

    def _second(self, w: _Weight) -> Array:
        out = np.empty_like(self.now.of(w.after + SECOND))
        foretell_second(self.path, self.then.of(w.before + SECOND), out)
        return out

    def _first(self, w: _Weight) -> str | None:
        """Return what to foretell the first moment from: "" is the second one alone; None: it does not pay."""
        name = w.after + FIRST
        new, out, best = self.now.of(name), np.empty_like(self.now.of(name)), None
        other = least = self._otherwise(name, w.before and w.before + FIRST)
        for stem in dict.fromkeys(("", w.before)):
            before, second = self.then.moments(stem), self.now.of(w.after + SECOND)
            foretell_first(self.path, before, second, out)
            packed = CODECS[_TURNED].encode(_bytes(new), 4, _bytes(out))
            share = min(1.0, len(packed) / new.nbytes)
            if share < _SIZED * least:
                best, least = stem, share
        self.saved += (other - least) * self._size(name)
        return best

    def _pays(self, name: str, old: str, foretold: Array, least: float = _PAYS) -> bool:
        new = self.now.of(name)
        share = (
            0.0
            if _bytes(new) == _bytes(foretold)
            else cost(bytes(_bytes(new)), 4, bytes(_bytes(foretold)))
        )
        other = self._otherwise(name, old)
        pays = share < least * other
        self.saved += (other - share) * self._size(name) if pays else 0
        if not name.endswith(SECOND):
            self.taken += (share if pays else other) * self._size(name)
        return pays

    def _otherwise(self, name: str, old: str) -> float:
        """Return the share a tensor would take without a path."""
        new = bytes(_bytes(self.now.of(name)))
        if name not in self._alone:
            self._alone[name] = cost(new, 4)
        key = self.candidate.manifest.tensors[old].blake3 if old else None
        one = None if key is None else self._shelf.objects.get(key)
        alone = self._alone[name]
        if one is None or one.kind != "tensor" or one.depth >= DEPTH:
            return alone
        there = bytes(_bytes(self.then.of(old)))
        return 0.0 if there == new else min(alone, cost(new, 4, there))


def _bytes(values: Array) -> memoryview:
    return values.view(np.uint8).data


def _stems(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return by parameter what the names of its moments begin with."""
    found = {}
    for name in tensors:
        stem = name.removesuffix(FIRST)
        if stem != name and stem + SECOND in tensors:
            found[stem.removeprefix("optimizer.")] = stem
    return found


def _paired(manifest: Manifest, earlier: Manifest) -> Iterator[_Weight]:
    """Yield the float32 weights that both have, with their moments."""
    names, mine, theirs = Names(earlier.tensors), _stems(manifest.tensors), _stems(earlier.tensors)
    for name, tensor in manifest.tensors.items():
        moment = name.endswith((FIRST, SECOND))
        if moment or tensor.spec.dtype.name != "F32" or tensor.spec.nbytes < _LEAST:
            continue
        old = names.find(name, tensor.spec)
        if old is not None and tensor.at is not None and tensor.blake3:
            after, before = _of(mine, name), _of(theirs, old)
            fit_after = after and manifest.tensors[after + FIRST].spec == tensor.spec
            fit_before = before and earlier.tensors[before + FIRST].spec == tensor.spec
            yield _Weight(name, old, before if fit_before else "", after if fit_after else "")


def _of(stems: Mapping[str, str], name: str) -> str:
    return stems.get(name) or stems.get(name.removeprefix("model.")) or ""


def path_of(
    shelf: Shelf, manifest: Manifest, target: Plain, near: Sequence[Candidate]
) -> Recipe | None:
    """Return what foretells a checkpoint from the packed one it was trained from; None if nothing does.

    Args:
        shelf: with the library.
        manifest: of the checkpoint.
        target: its values.
        near: models it may have been trained from, the nearest first.
    """
    tried: list[tuple[float, _Try]] = []
    alone = dict[str, float]()
    for candidate in _earlier(shelf, manifest, near):
        one = _Try(shelf, target, manifest, candidate, alone)
        one.look()
        if one.saved > _WORTH * manifest.size:
            tried.append((one.taken * (1 + _DEEPER * depth_of(shelf, candidate)), one))
    if not tried:
        return None
    best = min(tried, key=lambda t: t[0])[1]
    return _opened(shelf, manifest, target, best.document)


def _earlier(shelf: Shelf, manifest: Manifest, near: Sequence[Candidate]) -> list[Candidate]:
    """List what it may have been trained from."""
    found: list[Candidate] = []
    seen = set[frozenset[str | None]]()
    mine = frozenset(t.blake3 for t in manifest.tensors.values())
    for candidate in near:
        keys = frozenset(t.blake3 for t in candidate.manifest.tensors.values())
        if keys in seen:  # a twin in another format
            continue
        seen.add(keys)
        record = shelf.record(candidate.id)
        plain = record is not None and (record.recipe is None or MARK in record.recipe)
        depth = depth_of(shelf, candidate) if plain else DEPTH + 1
        twin = keys == mine and depth == DEPTH
        full = depth == DEPTH - 1 and _followers(shelf, candidate) >= _LEAVES
        if twin or (depth < DEPTH and not full and len(found) < _TRIED):
            found.append(candidate)
    return found


def _followers(shelf: Shelf, candidate: Candidate) -> int:
    """Count the checkpoints that are foretold from this one."""
    records = (shelf.record(name) for name in shelf.candidates)
    return sum(
        r is not None and MARK in (r.recipe or {}) and candidate.id in r.sources for r in records
    )


def depth_of(shelf: Shelf, candidate: Candidate) -> int:
    """Return how many checkpoints must be read, one after another, for the weights of this one."""
    record = shelf.record(candidate.id)
    if record is not None and record.recipe is not None and MARK in record.recipe:
        return 1 + max((depth_of(shelf, shelf.candidates[s]) for s in record.sources), default=0)
    tensors = candidate.manifest.tensors.items()
    weights = (t.blake3 or "" for n, t in tensors if not n.endswith((FIRST, SECOND)))
    return max((one.depth for key in weights if (one := shelf.objects.get(key))), default=0)


def _opened(shelf: Shelf, manifest: Manifest, target: Plain, document: Document) -> Recipe | None:
    try:
        source = open_stored(shelf.home, document.source, 1, shelf.objects)
    except MemcardError:
        return None
    specs = {n: t.spec for n, t in manifest.tensors.items()}
    try:
        made = PathCheckpoint(document, source, target, specs)
        known = {n: digest_of(made, n) for n in document.same}
    except MemcardError:  # what is packed is damaged, which verify tells
        source.close()
        return None
    exact = frozenset(n for n, found in known.items() if found == manifest.tensors[n].blake3)
    title = f"trained from {shelf.candidates[document.source].manifest.sha256[:12]}"
    codecs = {stem + FIRST: _TURNED for stem in document.first}
    return Recipe(
        *(document.to_dict(), title, made, document.names(), exact),
        *((document.source,), codecs),
    )
