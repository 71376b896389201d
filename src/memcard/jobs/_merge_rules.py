"""From what a user wants kept, left out or weighted by block to the rules of a recipe.

The choice is made tensor by tensor, from headers. A rule then names the tensors by the shortest prefixes that
fit no other, so that a recipe stays short and readable whatever the dialect.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from memcard.core.checkpoint import Checkpoint
from memcard.core.tensors import Specs
from memcard.errors import MismatchError, UsageError
from memcard.jobs._block_weights import block_labels, block_weights
from memcard.jobs._blocks import places
from memcard.jobs._components import parts_of
from memcard.recipes.nodes import Params
from memcard.recipes.op import Op

# What becomes of a tensor: kept of an input, or merged with these parameters changed.
Fate: TypeAlias = int | Params

_DENOISER = ("unet", "transformer")
PARTS = (*_DENOISER, "vae", "text_encoder")
# The parameter that says how far a merge goes: of most methods by its name, of some by theirs.
_DIALS = ("lambda", "t")
_DIAL_OF = {"cosine_add": "alpha", "geometric": "alpha", "train_difference": "alpha"}
_PAIR = 2


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a user wants beside the method.

    Attributes:
        only: parts to merge; the others are those of the first checkpoint. Empty: all.
        blocks: weights by block, as ``block_weights`` reads them.
        keep: part to the number of the input it is taken from.
        keep_first: a tensor that some inputs lack is the first's, or left out; not refused.
    """

    only: tuple[str, ...] = ()
    blocks: str | None = None
    keep: Mapping[str, int] = field(default_factory=dict)
    keep_first: bool = False

    def __bool__(self) -> bool:
        return bool(self.only or self.blocks or self.keep or self.keep_first)


@dataclass(frozen=True, slots=True)
class Rules:
    """What to do with which tensors.

    Attributes:
        rules: as ``by_block`` takes them; () if the method merges all of them alike.
        merged: number of tensors that are merged.
        missing: tensors of the first checkpoint that another lacks.
        extra: tensors of another checkpoint that the first lacks.
    """

    rules: tuple[Params, ...]
    merged: int
    missing: tuple[str, ...]
    extra: tuple[str, ...]


def rules_for(
    inputs: Sequence[Checkpoint],
    wishes: Wishes,
    *,
    merged: int,
    first: int,
    method: str,
    op: Op,
) -> Rules:
    """Decide about every tensor.

    Args:
        inputs: those of the method, then those that only give parts.
        wishes: what the user wants.
        merged: how many of the inputs the method takes.
        first: the input whose names and order the result has.
        method: name of the method.
        op: the method.

    Raises:
        MismatchError: nothing would be merged, or a part is not there.
        UsageError: weights that cannot be read, or a method that has none to set by block.
    """
    lead = inputs[first].specs
    # Files of statistics follow the models; they have no weights to merge, and may lack any name.
    models = merged // 2 if getattr(op, "with_statistics", False) else merged
    pool = [c.specs for c in inputs[:models]]
    names = tuple(dict.fromkeys(name for specs in (lead, *pool) for name in specs))
    part = _parts(inputs)
    fates: dict[str, Fate] = dict.fromkeys(names, Params())
    if wishes.only:
        chosen = _of(part, wishes.only)
        fates |= {name: first for name in names if part[name] not in chosen}
    if wishes.blocks is not None:
        weights = block_weights(wishes.blocks, block_labels(names))
        dial = _dial(method, op, models)
        fates |= {n: dial(w) for n, w in weights.items() if fates[n] == Params()}
    missing, extra = _odd([n for n, fate in fates.items() if isinstance(fate, Params)], pool, lead)
    if wishes.keep_first:
        fates |= dict.fromkeys((*missing, *extra), first)
    _keep(fates, inputs, wishes.keep, part)
    count = sum(isinstance(fate, Params) for fate in fates.values())
    if not count:
        raise MismatchError("no tensor would be merged: everything is kept as it is.")
    universe = dict.fromkeys(name for c in inputs for name in c.specs)
    return Rules(_rules(fates, universe), count, missing, extra)


def parts_named(text: str | Iterable[str] | None) -> tuple[str, ...]:
    """Read names of parts, several in one text with commas.

    Raises:
        UsageError: a name is no part.
    """
    texts = [text] if isinstance(text, str) else list(text or ())
    found = [n.strip().lower().rstrip("s") for t in texts for n in t.split(",") if n.strip()]
    odd = [name for name in found if name not in PARTS]
    if odd:
        raise UsageError(f"{', '.join(map(repr, odd))}: no part. There are: {', '.join(PARTS)}.")
    return tuple(dict.fromkeys(found))


def cover(chosen: Collection[str], universe: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the shortest prefixes and the names that fit ``chosen`` and nothing else.

    Prefixes end in a dot. A name is listed where every prefix of it fits others too.
    """
    chosen = dict.fromkeys(chosen)
    taken = {prefix for name in universe if name not in chosen for prefix in _prefixes(name)}
    prefixes: dict[str, None] = {}
    names = []
    for name in chosen:
        prefix = next((p for p in _prefixes(name) if p not in taken), None)
        if prefix is None:
            names.append(name)
        else:
            prefixes[prefix] = None
    return list(prefixes), names


def _prefixes(name: str) -> list[str]:
    words = name.split(".")
    return [".".join(words[:i]) + "." for i in range(1, len(words))]


def _parts(inputs: Sequence[Checkpoint]) -> dict[str, str]:
    """Return the part of every tensor of all inputs; the first that has it decides."""
    found: dict[str, str] = {}
    for checkpoint in reversed(inputs):
        known, by_name = parts_of(checkpoint), places(checkpoint.specs)
        for name, part in known.items():
            found[name] = by_name[name].component if part in ("rest", "other") else part
    return {name: _plain(part) for name, part in found.items()}


def _plain(part: str) -> str:
    if part.startswith("text_encoder"):
        return "text_encoder"
    return "unet" if part == "denoiser" or part.startswith(_DENOISER) else part


def _of(part: Mapping[str, str], wanted: Iterable[str]) -> set[str]:
    names = {_plain(name) for name in wanted}
    absent = names - set(part.values())
    if absent:
        there = ", ".join(dict.fromkeys(part.values()))
        raise MismatchError(f"no {', no '.join(sorted(absent))} is in these checkpoints: {there}.")
    return names


def _dial(method: str, op: Op, models: int) -> Callable[[float], Params]:
    """Return what turns a weight by block into changed parameters of the method.

    Raises:
        UsageError: the method has no weight, or merges more models than a weight can say.
    """
    dials = [n for n in _DIALS if n in op.params and op.params[n].kind == "float"]
    name = _DIAL_OF.get(method, dials[0] if dials else None)
    if name is not None:
        return lambda w: Params({name: float(w)})
    if "weights" not in op.params or getattr(op, "takes_base", False):
        raise UsageError(
            f"--blocks: {method} has no weight that could differ by block. Use --only and "
            "--keep-vae-of to merge some parts only, or another method."
        )
    if models != _PAIR:
        raise UsageError(
            f"--blocks: a weight is the share of the second of two checkpoints; {models} given."
        )
    return lambda w: Params({"weights": (1.0 - w, float(w)), **_normal(op)})


def _normal(op: Op) -> dict[str, bool]:
    return {"normalize": False} if "normalize" in op.params else {}


def _odd(
    names: Iterable[str], pool: Sequence[Specs], lead: Specs
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    odd = [name for name in names if not all(name in specs for specs in pool)]
    return tuple(n for n in odd if n in lead), tuple(n for n in odd if n not in lead)


def _keep(
    fates: dict[str, Fate],
    inputs: Sequence[Checkpoint],
    keep: Mapping[str, int],
    part: Mapping[str, str],
) -> None:
    for wanted, index in keep.items():
        kind = _plain(wanted)
        there = [name for name in inputs[index].specs if part[name] == kind]
        if not there:
            raise MismatchError(
                f"input {index + 1}: has no {wanted} to keep. Name a checkpoint that has one."
            )
        fates |= dict.fromkeys((n for n in fates if part[n] == kind), index)
        fates |= dict.fromkeys(there, index)


def _rules(fates: Mapping[str, Fate], universe: Iterable[str]) -> tuple[Params, ...]:
    groups: dict[Fate, list[str]] = {}
    for name, fate in fates.items():
        groups.setdefault(fate, []).append(name)
    universe = tuple(universe)
    return tuple(
        _rule(fate, *cover(names, universe)) for fate, names in groups.items() if fate != Params()
    )


def _rule(fate: Fate, prefixes: Sequence[str], names: Sequence[str]) -> Params:
    said: dict[str, Any] = {"keep": fate} if isinstance(fate, int) else {"set": fate}
    if prefixes:
        said["prefixes"] = tuple(prefixes)
    if names:
        said["names"] = tuple(names)
    return Params(said)
