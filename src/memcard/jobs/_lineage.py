"""What a made checkpoint says about itself: its recipe, its parents, its license."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, cast

from memcard.jobs.resolve import card_of, label
from memcard.recipes.nodes import Apply, Node, Source
from memcard.recipes.text import recipe_id, to_json

# Keys that are about one file and would be false on another.
_OWN = ("hash", "sha256", "title", "date", "thumbnail", "merged_from", "description", "sd_merge")
_CARD_KEPT = ("settings", "limits")
_PAIR = 2


@dataclass(frozen=True, slots=True)
class Parent:
    """One input: how people call it, its contents, what it says about itself."""

    name: str
    sha256: str | None
    metadata: Mapping[str, str]

    @property
    def license(self) -> str:
        """The license it states, or ``unknown``."""
        stated = card_of(self.metadata).get("license") or self.metadata.get("modelspec.license")
        return str(stated) if stated else "unknown"


def published(node: Node) -> Node:
    """Return the recipe as it may be shared: without the folders of this machine."""
    if isinstance(node, Source):
        return Source(label(node.ref), node.sha256)
    return Apply(node.op, tuple(published(child) for child in node.inputs), node.params)


def metadata_of(node: Node, parents: Sequence[Parent], *, kind: str) -> dict[str, str]:
    """Return the metadata of the checkpoint ``node`` makes; the same for the same recipe.

    Keys on which all parents agree are kept; the card is written anew.
    """
    shared, models = published(node), _models(node, parents)
    found = {
        key: value
        for key, value in models[0].metadata.items()
        if not key.startswith("memcard.")
        and not any(word in key for word in _OWN)
        and all(parent.metadata.get(key) == value for parent in models[1:])
    }
    found["memcard.recipe"] = to_json(shared)
    found["memcard.recipe_id"] = recipe_id(shared)
    found["memcard.card"] = _dump(card(node, parents, kind=kind))
    found["modelspec.merged_from"] = ", ".join(parent.name for parent in parents)
    found["sd_merge_recipe"] = _dump(
        {"type": "memcard", "recipe_id": recipe_id(shared)} | _a1111(shared, parents)
    )
    found["sd_merge_models"] = _dump(
        {p.sha256: {"name": p.name, "legacy_hash": ""} for p in parents if p.sha256}
    )
    return found


def card(node: Node, parents: Sequence[Parent], *, kind: str) -> dict[str, Any]:
    """Return the card: a license only if all parents state the same one.

    Which license a mixture of licenses has is not decided here: it is ``unknown``, and the parents
    are listed with theirs.
    """
    licenses = tuple(dict.fromkeys(parent.license for parent in parents))
    cards = [card_of(parent.metadata) for parent in parents]
    found: dict[str, Any] = {
        "title": title_of(node, parents),
        "kind": kind,
        "license": licenses[0] if len(licenses) == 1 else "unknown",
        "parents": [p.sha256 for p in parents if p.sha256],
        "made_from": [{"name": p.name, "sha256": p.sha256, "license": p.license} for p in parents],
    }
    first, *others = [card_of(parent.metadata) for parent in _models(node, parents)]
    for key in _CARD_KEPT:
        if key in first and all(c.get(key) == first[key] for c in others):
            found[key] = first[key]
    credited = [item for c in cards for item in _listed(c.get("attribution"))]
    if credited:
        found["attribution"] = [c for i, c in enumerate(credited) if c not in credited[:i]]
    return found


def _models(node: Node, parents: Sequence[Parent]) -> Sequence[Parent]:
    """Return the parents that say what kind of model this is: a LoRA does not."""
    return parents[:1] if isinstance(node, Apply) and node.op == "lora_bake" else parents


def title_of(node: Node, parents: Sequence[Parent]) -> str:
    """Return a title people understand: the inputs with their shares or strengths.

    Not the name of the file: baking a recipe again must give the same bytes under any name.
    """
    stems = [
        PurePath(parent.name).stem if "." in parent.name else parent.name for parent in parents
    ]
    if not isinstance(node, Apply):
        return stems[0]
    if node.op == "lora_bake":
        strengths = _floats(node, "strengths", len(stems) - 1)
        shown = [f"{n} {s:g}" for n, s in zip(stems[1:], strengths, strict=True)]
        return " + ".join([stems[0], *shown])
    if node.op == "weighted_average":
        weights = _floats(node, "weights", len(stems))
        whole = sum(weights) if node.params.get("normalize") else 1.0
        weights = tuple(w / whole for w in weights)
        return " + ".join(f"{w:g} {n}" for n, w in zip(stems, weights, strict=True))
    method = f"{node.params['method']} by block" if node.op.startswith("by_block") else node.op
    return f"{method} of {', '.join(stems)}"


def _a1111(node: Node, parents: Sequence[Parent]) -> dict[str, Any]:
    """Return the fields A1111 shows for its own merges, where they say the truth."""
    names = ("primary", "secondary", "tertiary")
    found: dict[str, Any] = {
        f"{name}_model_hash": parent.sha256 for name, parent in zip(names, parents, strict=False)
    }
    if isinstance(node, Apply) and node.op == "weighted_average" and len(parents) == _PAIR:
        first, second = _floats(node, "weights", _PAIR)
        if node.params["normalize"] or first + second == 1:
            found |= {"interp_method": "Weighted sum", "multiplier": second / (first + second)}
    return found


def _floats(node: Apply, key: str, count: int) -> tuple[float, ...]:
    """Return one number per input; none given means that all are 1."""
    return cast("tuple[float, ...]", node.params.get(key)) or (1.0,) * count


def _listed(value: object) -> list[object]:
    if not value:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
