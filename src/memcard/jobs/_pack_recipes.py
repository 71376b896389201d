"""Find out whether a checkpoint is a cast, a merge or a bake of packed ones, and which tensors that gives.

Every tensor is computed and compared with its digest: what the recipe gives exactly need not be stored, the
others are stored as the difference to what it gives. So nothing depends on the guess being right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from math import inf, sqrt
from typing import Any

import numpy as np
from blake3 import blake3

from memcard.core.checkpoint import Checkpoint, Extent
from memcard.errors import MemcardError, NotFoundError
from memcard.jobs._discover_loras import is_lora, with_loras
from memcard.jobs._discover_sample import read, take, wide
from memcard.jobs._discover_sums import Guess, guesses
from memcard.jobs._pack_bases import Candidate, Source, open_plain
from memcard.jobs._stored import open_stored
from memcard.maths.floats import can_compute
from memcard.ops import OPS
from memcard.recipes.execute import RecipeCheckpoint, Resolver, evaluate
from memcard.recipes.nodes import Node, sources
from memcard.recipes.nodes import Source as Leaf
from memcard.recipes.text import to_document
from memcard.store import packed as records
from memcard.store.layout import Layout
from memcard.store.manifest import Manifest

_LIKELY = 0.5  # share of sampled values a recipe must give to be worth computing
_CHUNK = 4 << 20
_SKETCH, _MEDIUM, _TENSORS = 1024, 1 << 19, 6  # values, values of a tensor, tensors


@dataclass(frozen=True)
class Recipe:
    """A recipe of a checkpoint.

    Attributes:
        document: its JSON; sources are called by the ids of their manifests.
        title: in one line.
        checkpoint: what it gives.
        names: tensors it gives, of the right dtype and shape.
        exact: those it gives bit for bit.
        sources: ids of the manifests it is computed from.
    """

    document: Mapping[str, Any]
    title: str
    checkpoint: Checkpoint
    names: frozenset[str]
    exact: frozenset[str]
    sources: tuple[str, ...]


class Plain:
    """A checkpoint that is read through its manifest from plain files, whatever its format."""

    def __init__(self, manifest: Manifest, source: Source) -> None:
        self.format = manifest.format
        self.specs = {n: t.spec for n, t in manifest.tensors.items() if t.at is not None}
        self.metadata = dict(manifest.metadata)
        self.notes: tuple[str, ...] = ()
        self._source = source

    def read(self, name: str) -> memoryview:
        """Return one tensor."""
        out = memoryview(bytearray(self.specs[name].nbytes))
        self.readinto(name, out)
        return out

    def readinto(self, name: str, into: memoryview, offset: int = 0) -> None:
        """Fill ``into``."""
        self._source.reader(name)(offset, into)

    def extent(self, name: str) -> Extent | None:
        """Not said."""
        return None

    def close(self) -> None:
        """Do nothing: the files are the caller's."""


def find_recipe(
    layout: Layout,
    manifest: Manifest,
    source: Source,
    candidates: Sequence[Candidate],
    pack_first: Callable[[str], bool],
) -> Recipe | None:
    """Return the recipe that gives most of a checkpoint; None if nothing comes near.

    Args:
        layout: of the library.
        manifest: of the checkpoint.
        source: its values.
        candidates: checkpoints it may have been made from, packed or plain.
        pack_first: packs a source of the recipe that is not packed; False if that cannot be now.
    """
    target = Plain(manifest, source)
    with ExitStack() as stack:
        models: list[tuple[Candidate, Checkpoint]] = []
        loras: list[tuple[Candidate, Checkpoint]] = []
        for candidate in candidates:
            opened = _opened(stack, layout, candidate)
            if opened is not None:
                (loras if is_lora(opened) else models).append((candidate, opened))
        known = {candidate.id: candidate for candidate in candidates}
        guess = _guess(target, models, loras, partial(_again, stack, layout, known))
    if guess is None or isinstance(guess.node, Leaf):  # equal tensors are kept once anyway
        return None
    used = [leaf.ref for leaf in sources(guess.node)]
    if _takes_away(guess.node) and any(records.get(layout, ref) is None for ref in used):
        return None  # more likely the other one was made from this one
    if not all(pack_first(ref) for ref in used):
        return None
    return _computed(layout, manifest, target, guess)


def _takes_away(node: Node) -> bool:
    """Whether a weighted sum has a negative weight, so that its parts may be sums of it."""
    if isinstance(node, Leaf):
        return False
    settings = node.params.get("settings", node.params)
    weights: Any = ()
    if isinstance(settings, Mapping):
        weights = settings.get("weights", settings.get("strengths", ()))
    numbers = weights if isinstance(weights, tuple) else ()
    return any(isinstance(w, (int, float)) and w < 0 for w in numbers)


def _opened(stack: ExitStack, layout: Layout, candidate: Candidate) -> Checkpoint | None:
    record = records.get(layout, candidate.id)
    if record is not None and record.recipe is not None:
        return None  # recipes upon recipes would make reading slow
    try:
        if record is not None:
            opened = open_stored(layout, candidate.id)
            stack.callback(opened.close)
            return opened
        return Plain(candidate.manifest, open_plain(stack, layout, candidate.manifest))
    except MemcardError:
        return None  # no copy at hand


def _again(
    stack: ExitStack, layout: Layout, known: Mapping[str, Candidate], leaf: Leaf
) -> Checkpoint:
    """Open a candidate once more, for a recipe that closes what it reads."""
    opened = _opened(stack, layout, known[leaf.ref])
    if opened is None:
        raise NotFoundError(f"{leaf.ref}: no copy is at hand.")
    return opened


def _guess(
    target: Plain,
    models: Sequence[tuple[Candidate, Checkpoint]],
    loras: Sequence[tuple[Candidate, Checkpoint]],
    resolve: Resolver,
) -> Guess | None:
    names = set(target.specs)
    alike = [(c, o) for c, o in models if len(names & set(o.specs)) >= 0.9 * len(names)]
    if not alike:
        return None
    refs = [c.manifest.metadata.get("modelspec.title", c.manifest.sha256[:8]) for c, _ in alike]
    nodes: list[Node] = [Leaf(c.id, c.manifest.sha256) for c, _ in alike]
    opened = [o for _, o in alike]
    samples = take(target, opened)
    best = guesses(samples, refs, nodes, target)
    if (best is None or best.right < 1) and loras:
        adapters = [(c.manifest.sha256[:8], Leaf(c.id, c.manifest.sha256), o) for c, o in loras]
        baked = with_loras(target, opened, refs, nodes, adapters, resolve)
        if baked is not None and (best is None or baked.right > best.right):
            best = baked
    return best if best is not None and best.right >= _LIKELY else None


def _computed(layout: Layout, manifest: Manifest, target: Plain, guess: Guess) -> Recipe | None:
    made = evaluate(guess.node, lambda leaf: open_stored(layout, leaf.ref, 1), OPS)
    try:
        names = frozenset(n for n, s in target.specs.items() if made.specs.get(n) == s)
        exact = frozenset(n for n in names if digest_of(made, n) == manifest.tensors[n].blake3)
    except MemcardError:
        made.close()
        return None
    used = tuple(dict.fromkeys(leaf.ref for leaf in sources(guess.node)))
    return Recipe(to_document(guess.node), guess.title, made, names, exact, used)


def digest_of(made: Checkpoint, name: str) -> str:
    """Return the BLAKE3 of a tensor, read in pieces."""
    spec, whole = made.specs[name], blake3()
    step = made.piece(name, _CHUNK) if isinstance(made, RecipeCheckpoint) else _CHUNK
    for at in range(0, spec.nbytes, max(step, 1)):
        part = memoryview(bytearray(min(step, spec.nbytes - at)))
        made.readinto(name, part, at)
        whole.update(part)
    return whole.hexdigest()


def distance(layout: Layout, manifest: Manifest, source: Source, candidate: Candidate) -> float:
    """Return how far another checkpoint is, from a few values of a few tensors; infinite if unrelated.

    It is the norm of the difference, divided by the norm, over the beginnings of tensors of medium size.
    """
    other = candidate.manifest
    both = [
        name
        for name, tensor in manifest.tensors.items()
        if tensor.at is not None
        and can_compute(tensor.spec.dtype)
        and _SKETCH <= tensor.spec.elements <= _MEDIUM
        and name in other.tensors
        and other.tensors[name].spec.shape == tensor.spec.shape
        and can_compute(other.tensors[name].spec.dtype)
    ]
    chosen = both[:: max(1, len(both) // _TENSORS)]
    if not chosen:
        return inf
    with ExitStack() as stack:
        there = _opened(stack, layout, candidate)
        if there is None:
            return inf
        here, apart, whole = Plain(manifest, source), 0.0, 0.0
        for name in chosen:
            mine, theirs = (wide(read(c, name, [(0, _SKETCH)])) for c in (here, there))
            apart += float(np.nansum((mine - theirs) ** 2))
            whole += float(np.nansum(mine**2))
    return sqrt(apart / whole) if whole else inf
