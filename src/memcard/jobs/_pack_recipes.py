"""Find out whether a checkpoint is a cast, a merge or a bake of others, and which tensors that gives.

A few tensors are looked at first, against many candidates; only then all, against those that count. In the end
every tensor is computed and compared with its digest: what the recipe gives exactly need not be stored, the
others are stored as the difference to what it gives. So nothing depends on the guess being right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from blake3 import blake3

from memcard.core.checkpoint import Checkpoint, Extent
from memcard.errors import MemcardError, NotFoundError
from memcard.jobs._discover_loras import with_loras
from memcard.jobs._discover_sample import take
from memcard.jobs._discover_sums import Guess, guesses, untouched
from memcard.jobs._pack_plain import Plain
from memcard.jobs._pack_shelf import Candidate, Shelf
from memcard.jobs._stored import open_stored
from memcard.jobs._training_path import MARK
from memcard.maths.floats import can_compute
from memcard.maths.rounding import announce
from memcard.ops import OPS
from memcard.recipes.execute import RecipeCheckpoint, evaluate
from memcard.recipes.nodes import Apply, Node, sources
from memcard.recipes.nodes import Source as Leaf
from memcard.recipes.text import from_document, to_document
from memcard.store.manifest import Manifest
from memcard.store.pack import keeping

MOST = 16  # models that are looked at as parts of a sum
_LORAS, _BAKED = 8, 2  # adapters, and models they may have been baked into
_UNTOUCHED = 0.05  # share of tensors
_LIKELY = 0.5  # share of sampled values a recipe must give to be worth computing
_CHUNK = 4 << 20
_FIRST = 40  # tensors for the first look
_PARTS = 3  # sources of a recipe that another one may be built on


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
        codecs: of what is stored beside it, where it is not the usual one.
    """

    document: Mapping[str, Any]
    title: str
    checkpoint: Checkpoint
    names: frozenset[str]
    exact: frozenset[str]
    sources: tuple[str, ...]
    codecs: Mapping[str, str] = field(default_factory=dict)


class _Lent:
    """A checkpoint that stays open when a recipe closes it."""

    def __init__(self, owner: Checkpoint) -> None:
        self.format, self.metadata, self.notes = owner.format, owner.metadata, owner.notes
        self.specs, self._owner = owner.specs, owner

    def read(self, name: str) -> memoryview:
        return self._owner.read(name)

    def readinto(self, name: str, into: memoryview, offset: int = 0) -> None:
        self._owner.readinto(name, into, offset)

    def extent(self, name: str) -> Extent | None:
        return self._owner.extent(name)

    def close(self) -> None:
        pass


def find_guess(
    shelf: Shelf, manifest: Manifest, target: Plain, candidates: Sequence[Candidate]
) -> Guess | None:
    """Return the recipe that gives most of the values that were looked at; None if nothing comes near.

    Args:
        shelf: with the library.
        manifest: of the checkpoint.
        target: its values.
        candidates: models it may have been made from, packed or plain, the nearest first.
    """
    first = _glance(manifest, target)
    pairs = _opened(shelf, target, candidates[:MOST])
    rough = _guess(shelf, first, pairs)
    if rough is None or len(first.specs) == len(target.specs):
        return rough
    used = {leaf.ref for leaf in sources(rough.node)}
    count = {c.id for c, _ in pairs[:2]} | used
    of_these = [(c, o) for c, o in pairs if c.id in count or used & set(_sources_of(shelf, c.id))]
    return _guess(shelf, target, of_these)


def find_recipe(
    shelf: Shelf, guess: Guess | None, manifest: Manifest, pack_first: Callable[[str], bool]
) -> Recipe | None:
    """Compute what a guess gives; None if it is no recipe, or its sources are not to be had.

    Args:
        shelf: with the library.
        guess: what it may be.
        manifest: of the checkpoint.
        pack_first: packs a source of the recipe that is not packed; False if that cannot be now.
    """
    if guess is None or isinstance(guess.node, Leaf):  # equal tensors are kept once anyway
        return None
    used = [leaf.ref for leaf in sources(guess.node)]
    if takes_away(guess.node) and any(shelf.record(ref) is None for ref in used):
        return None  # more likely the other one was made from this one
    if not all(pack_first(ref) for ref in used):
        return None
    return _computed(shelf, manifest, guess)


def takes_away(node: Node) -> bool:
    """Whether a weighted sum has a negative weight, so that its parts may be sums of it."""
    if not isinstance(node, Apply):
        return False
    settings = node.params.get("settings", node.params)
    found = settings if isinstance(settings, Mapping) else {}
    numbers: Any = found.get("weights", found.get("strengths", ()))
    weights = (
        [w for w in numbers if isinstance(w, (int, float))] if isinstance(numbers, tuple) else []
    )
    if str(found.get("style", "")).endswith("_change"):  # a + s (b - c), where c may be a
        return len(node.inputs) > 2 or any(not 0 <= w <= 1 for w in weights)
    return any(w < 0 for w in weights) or any(map(takes_away, node.inputs))


def _glance(manifest: Manifest, target: Plain) -> Plain:
    """Return the checkpoint with a few of its tensors: from all over it, of each stretch a small one."""
    names = [n for n, s in target.specs.items() if can_compute(s.dtype) and s.elements]
    if len(names) <= _FIRST:
        return target
    chosen = []
    for i in range(_FIRST):
        stretch = names[i * len(names) // _FIRST : (i + 1) * len(names) // _FIRST]
        # Few values tell little, and many are dear to decode.
        chosen.append(min(stretch, key=lambda n: abs(target.specs[n].elements - (1 << 14))))
    few = Plain(manifest, target.source)
    few.specs = {n: target.specs[n] for n in chosen}
    return few


def _opened(
    shelf: Shelf, target: Plain, candidates: Sequence[Candidate]
) -> list[tuple[Candidate, Checkpoint]]:
    """Open those that have the tensors, and that recipes may be built on."""
    names, found = set(target.specs), []
    for candidate in candidates:
        if len(_sources_of(shelf, candidate.id)) > _PARTS:
            continue  # recipes upon long recipes would make reading slow
        opened = shelf.open(candidate.id)
        if opened is not None and len(names & set(opened.specs)) >= 0.9 * len(names):
            found.append((candidate, opened))
    return found


def _sources_of(shelf: Shelf, name: str) -> tuple[str, ...]:
    record = shelf.record(name)
    return () if record is None else record.sources


def _node(shelf: Shelf, candidate: Candidate) -> Node:
    """Return what stands for a candidate in a recipe: itself, or the recipe it is stored as."""
    record = shelf.record(candidate.id)
    if record is None or record.recipe is None or MARK in record.recipe:
        return Leaf(candidate.id, candidate.manifest.sha256)
    return from_document(dict(record.recipe))


def _guess(
    shelf: Shelf, target: Plain, pairs: Sequence[tuple[Candidate, Checkpoint]]
) -> Guess | None:
    if not pairs:
        return None
    refs = [_called(shelf, candidate) for candidate, _ in pairs]
    nodes, opened = [_node(shelf, c) for c, _ in pairs], [o for _, o in pairs]
    samples = take(target, opened)
    best = guesses(samples, refs, nodes, target)
    loras = shelf.loras()[-_LORAS:]
    if (best is None or best.right < 1) and loras:
        some = [(c, o) for c in loras if (o := shelf.open(c.id)) is not None]
        adapters = [(_called(shelf, c), Leaf(c.id, c.manifest.sha256), o) for c, o in some]
        # Adapters leave norms and biases alone; to match names with theirs takes long.
        models = [i for i in range(len(pairs)) if untouched(samples, i) > _UNTOUCHED][:_BAKED]
        baked = with_loras(
            *(target, [opened[i] for i in models], [refs[i] for i in models]),
            *([nodes[i] for i in models], adapters, _lender(shelf)),
        )
        if baked is not None and (best is None or baked.right > best.right):
            best = baked
    return best if best is not None and best.right >= _LIKELY else None


def _called(shelf: Shelf, candidate: Candidate) -> str:
    """Return what people know a candidate by: its name in the library, its title, or its first digits."""
    manifest = candidate.manifest
    title = manifest.metadata.get("modelspec.title")
    return shelf.names.get(candidate.id) or title or manifest.sha256[:8]


def _lender(shelf: Shelf) -> Callable[[Leaf], Checkpoint]:
    def lend(leaf: Leaf) -> Checkpoint:
        opened = shelf.open(leaf.ref)
        if opened is None:
            raise NotFoundError(f"{leaf.ref}: no copy is at hand.")
        return _Lent(opened)

    return lend


def _computed(shelf: Shelf, manifest: Manifest, guess: Guess) -> Recipe | None:
    """Compute every tensor from what the packs hold."""

    def source(leaf: Leaf) -> Checkpoint:
        known = shelf.candidates.get(leaf.ref)
        manifest = None if known is None else known.manifest
        return open_stored(shelf.home, leaf.ref, 1, shelf.objects, manifest)

    try:
        made = evaluate(guess.node, source, OPS)
    except MemcardError:
        return None
    specs = {n: t.spec for n, t in manifest.tensors.items() if t.blake3}
    # Once to compare digests, once more to store what differs.
    announce(2 * sum(s.elements for s in specs.values()))
    try:
        names = frozenset(n for n, s in specs.items() if made.specs.get(n) == s)
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
    buffer = memoryview(bytearray(min(step, spec.nbytes)))
    for at in range(0, spec.nbytes, max(step, 1)):
        part = buffer[: min(step, spec.nbytes - at)]
        with keeping():
            made.readinto(name, part, at)
        whole.update(part)
    return whole.hexdigest()
