"""Estimate what packing would make of checkpoints, from a few values of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from memcard.core.checkpoint import Checkpoint
from memcard.errors import MemcardError
from memcard.jobs._pack_bases import MOST, Names, item_of
from memcard.jobs._pack_plain import Plain, open_plain
from memcard.jobs._pack_recipes import find_guess, takes_away
from memcard.jobs._pack_recorded import recorded
from memcard.jobs._pack_shelf import Shelf
from memcard.recipes.nodes import Source as Leaf
from memcard.recipes.nodes import sources
from memcard.store.manifest import Tensor
from memcard.store.pack import WORTH, cost, sampled

_LOOKED_AT = 8  # large tensors by which the size is estimated

Estimate = tuple[str, int, int, str, str]


def would_take(
    shelf: Shelf, wanted: Sequence[tuple[str, str]], *, recipes: bool
) -> Iterator[Estimate]:
    """Yield name, size, bytes it would take, how, and why it would be left alone.

    Args:
        shelf: with the library.
        wanted: ids of manifests and their names, in the order of packing.
        recipes: whether recipes are looked for.
    """
    keys: set[str] = set()  # of tensors that would be packed by then
    packed: dict[str, tuple[str, ...]] = {}  # with the sources of their recipes
    for manifest_id, name in wanted:
        candidate = shelf.candidates.get(manifest_id)
        if candidate is None:
            continue
        size = candidate.manifest.size
        if (record := shelf.record(manifest_id)) is not None:
            yield name, size, record.stored, "packed already", ""
            continue
        odd = [n for n, t in candidate.manifest.tensors.items() if t.at is None and t.spec.nbytes]
        with ExitStack() as stack:
            try:
                target = Plain(
                    candidate.manifest, open_plain(stack, shelf.home, candidate.manifest)
                )
            except MemcardError as error:
                yield name, size, 0, "", str(error)
                continue
            if odd:
                yield name, size, 0, "", f"its tensors are compressed or strided (such as {odd[0]})"
                continue
            stored, how, used = _estimate(shelf, manifest_id, target, keys, packed, recipes=recipes)
            yield name, size, stored, how, ""
        packed[manifest_id] = used
        keys.update(t.blake3 for t in candidate.manifest.tensors.values() if t.blake3)


def _estimate(
    shelf: Shelf,
    manifest_id: str,
    target: Plain,
    keys: set[str],
    packed: dict[str, tuple[str, ...]],
    *,
    recipes: bool,
) -> tuple[int, str, tuple[str, ...]]:
    manifest = shelf.candidates[manifest_id].manifest
    tensors = {t.blake3: (n, t) for n, t in manifest.tensors.items() if t.blake3 and t.spec.nbytes}
    new = [pair for key, pair in tensors.items() if key not in keys and key not in shelf.objects]
    if not new:
        return 0, "every tensor would be there already", ()
    near = shelf.near(manifest_id, manifest, target)
    guess = None
    if recipes:
        guess = recorded(shelf, manifest) or find_guess(shelf, manifest, target, near)
    if guess is not None and not isinstance(guess.node, Leaf):
        used = tuple(dict.fromkeys(leaf.ref for leaf in sources(guess.node)))
        circle = any(manifest_id in packed.get(ref, ()) for ref in used)
        known = all(ref in packed or shelf.record(ref) is not None for ref in used)
        if not circle and (known or not takes_away(guess.node)):
            wrong = sum(t.spec.nbytes for _, t in new) * (1 - guess.right)
            return round(wrong), guess.title, used
    there = [c for c in near if c.id in packed or shelf.record(c.id) is not None][:MOST]
    share, best = _share(shelf, target, new, [c.id for c in there])
    how = (
        "alone" if best is None else f"difference to {shelf.candidates[best].manifest.sha256[:12]}"
    )
    return round(share * sum(t.spec.nbytes for _, t in new)), how, ()


def _share(
    shelf: Shelf, target: Plain, new: Sequence[tuple[str, Tensor]], others: Sequence[str]
) -> tuple[float, str | None]:
    """Return the share of their size that tensors would take, and as differences to which checkpoint."""
    largest = sorted(new, key=lambda pair: -pair[1].spec.nbytes)[:_LOOKED_AT]
    whole = sum(t.spec.nbytes for _, t in largest)
    few = {n: _few(target, n, t) for n, t in largest}
    alone = {n: cost(few[n], item_of(t.spec)) for n, t in largest}
    least, best = WORTH * sum(alone[n] * t.spec.nbytes for n, t in largest), None
    for other in others:
        opened, total = shelf.open(other), 0.0
        names = Names(shelf.candidates[other].manifest.tensors)
        for name, tensor in largest:
            found = names.find(name, tensor.spec)
            share = alone[name]
            if opened is not None and found is not None and found in opened.specs:
                there = _few(opened, found, tensor)
                share = min(share, cost(few[name], item_of(tensor.spec), there))
            total += share * tensor.spec.nbytes
        if total < least:
            least, best = total, other
    if best is None:
        least /= WORTH
    return least / whole, best


def _few(checkpoint: Checkpoint, name: str, tensor: Tensor) -> bytes:
    return sampled(
        lambda at, out: checkpoint.readinto(name, out, at), tensor.spec.nbytes, item_of(tensor.spec)
    )
