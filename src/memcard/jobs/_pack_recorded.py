"""The recipe a checkpoint says it was made by, where all it was made from is in the library.

What memcard merges, bakes, casts and averages carries its recipe, so nothing need be guessed. It is computed and
compared like a guess: a file may say what it likes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from memcard.errors import MemcardError
from memcard.jobs._discover_sums import Guess
from memcard.jobs._pack_plain import Plain
from memcard.jobs._pack_recipes import Recipe, find_guess, find_recipe
from memcard.jobs._pack_shelf import Candidate, Shelf
from memcard.recipes.nodes import Node, Source
from memcard.recipes.text import from_json
from memcard.store.manifest import Manifest

# These look at the whole model, or at whole matrices for minutes, before the first value can be read.
_SLOW = frozenset({"cosine_add", "by_block_survey", "rotate", "regmean", "top_k_sum"})


def recipe_of(
    shelf: Shelf,
    manifest: Manifest,
    target: Plain,
    near: Sequence[Candidate],
    pack_first: Callable[[str], bool],
) -> Recipe | None:
    """Return the recipe of a checkpoint: the recorded one if it is right, else what can be found out.

    Args:
        shelf: with the library.
        manifest: of the checkpoint.
        target: its values.
        near: models it may have been made from.
        pack_first: packs a source of the recipe that is not packed; False if that cannot be now.
    """
    found = find_recipe(shelf, recorded(shelf, manifest), manifest, pack_first)
    if found is not None:
        if 2 * len(found.exact) > len(target.specs):
            return found
        found.checkpoint.close()  # it was changed since, or says what is not so
    return find_recipe(shelf, find_guess(shelf, manifest, target, near), manifest, pack_first)


def recorded(shelf: Shelf, manifest: Manifest) -> Guess | None:
    """Return the recorded recipe with the ids of manifests as its sources; None if there is none to use."""
    text = manifest.metadata.get("memcard.recipe")
    if text is None:
        return None
    by_sha256 = {c.manifest.sha256: c.id for c in shelf.candidates.values()}
    try:
        node = _at_hand(from_json(text), by_sha256)
    except MemcardError:
        return None
    if node is None or isinstance(node, Source):
        return None
    title = manifest.metadata.get("modelspec.title") or node.op
    return Guess(node, f"recorded: {title}", 1.0)


def _at_hand(node: Node, by_sha256: Mapping[str, str]) -> Node | None:
    if isinstance(node, Source):
        found = by_sha256.get(node.sha256 or "")
        return None if found is None else Source(found, node.sha256)
    if node.op in _SLOW:
        return None
    inputs = [_at_hand(child, by_sha256) for child in node.inputs]
    there = tuple(child for child in inputs if child is not None)
    return replace(node, inputs=there) if len(there) == len(inputs) else None
