"""The differences between two checkpoints as facts: per tensor, per block, per component."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, reduce
from math import isfinite
from typing import Any, Literal, TypeAlias

from memcard.core.tensors import Spec
from memcard.jobs._blocks import Place, order
from memcard.maths.compare import Distance

State: TypeAlias = Literal["equal", "same values", "moved", "shape", "not read"]


@dataclass(frozen=True, slots=True)
class Change:
    """One tensor that both have.

    Attributes:
        name: in A.
        other: in B.
        place: component, block and kind of layer.
        a: dtype and shape in A.
        b: dtype and shape in B.
        distance: how far the values lie apart; None if they were not compared.
    """

    name: str
    other: str
    place: Place
    a: Spec
    b: Spec
    distance: Distance | None

    @property
    def state(self) -> State:
        """Return ``equal`` (every bit), ``same values`` (the dtype differs), ``moved``, ``shape``."""
        if self.a.shape != self.b.shape:
            return "shape"
        if self.distance is None:
            return "not read"
        if not self.distance.same:
            return "moved"
        return "equal" if self.a.dtype == self.b.dtype else "same values"

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        return {
            "name": self.name,
            **({"name_in_b": self.other} if self.other != self.name else {}),
            "component": self.place.component,
            "block": self.place.block,
            "layer": self.place.layer,
            "a": spec_facts(self.a),
            "b": spec_facts(self.b),
            "state": self.state,
            **(_figures(self.distance) if self.distance else {}),
        }


@dataclass(frozen=True, slots=True)
class Group:
    """Tensors of one block, or of one component, taken as one vector.

    Attributes:
        component: of the model.
        block: None for the whole component.
        tensors: how many both have, of equal shape.
        moved: how many of them have other values.
        distance: over all of them.
        layers: the same per kind of layer.
    """

    component: str
    block: str | None
    tensors: int
    moved: int
    distance: Distance
    layers: Mapping[str, Distance]

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        return {
            **({"component": self.component} if self.block is None else {"block": self.block}),
            "tensors": self.tensors,
            "moved": self.moved,
            **_figures(self.distance),
            "layers": {name: _figures(found) for name, found in self.layers.items()},
        }


@dataclass(frozen=True, slots=True)
class Metadata:
    """Keys of the metadata that differ. They tell of the file, not of the weights."""

    only_a: tuple[str, ...] = ()
    only_b: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()

    @classmethod
    def between(cls, a: Mapping[str, str], b: Mapping[str, str]) -> Metadata:
        """Compare two sets of entries."""
        return cls(
            tuple(key for key in a if key not in b),
            tuple(key for key in b if key not in a),
            tuple(key for key in a if key in b and a[key] != b[key]),
        )


@dataclass(frozen=True)
class Diff:
    """What differs between checkpoint A and checkpoint B.

    Attributes:
        a: as the user named it.
        b: as the user named it.
        changes: the tensors that both have, in the order of A.
        only_a: the others of A: place, dtype and shape.
        only_b: the others of B.
        metadata: what the files say about themselves; does not count as a difference.
        notes: how tensors were matched, and what was left out.
        keys: only headers were compared.
    """

    a: str
    b: str
    changes: tuple[Change, ...]
    only_a: Mapping[str, tuple[Place, Spec]]
    only_b: Mapping[str, tuple[Place, Spec]]
    metadata: Metadata = field(default_factory=Metadata)
    notes: tuple[str, ...] = ()
    keys: bool = False

    @property
    def equal(self) -> bool:
        """Whether both have the same tensors: names, shapes, dtypes and (unless ``keys``) bits."""
        return not (self.only_a or self.only_b or self.dtypes) and not any(
            change.state in ("moved", "shape") for change in self.changes
        )

    @cached_property
    def counts(self) -> dict[State, int]:
        """How many tensors are in which state."""
        states: tuple[State, ...] = ("equal", "same values", "moved", "shape", "not read")
        found = [change.state for change in self.changes]
        return {state: found.count(state) for state in states}

    @cached_property
    def shapes(self) -> tuple[Change, ...]:
        """Tensors whose shapes differ; their values are not compared."""
        return tuple(change for change in self.changes if change.state == "shape")

    @cached_property
    def dtypes(self) -> tuple[Change, ...]:
        """Tensors whose dtypes differ."""
        return tuple(change for change in self.changes if change.a.dtype != change.b.dtype)

    @cached_property
    def moved(self) -> tuple[Change, ...]:
        """Tensors whose values differ, the furthest first."""
        found = [change for change in self.changes if change.state == "moved"]
        return tuple(sorted(found, key=_far, reverse=True))

    @cached_property
    def blocks(self) -> tuple[Group, ...]:
        """Every block of which values were compared, in the order in which a model computes."""
        return _groups(self.changes, whole=False)

    @cached_property
    def components(self) -> tuple[Group, ...]:
        """Every component of which values were compared."""
        return _groups(self.changes, whole=True)

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values; what is infinite or unknown is null."""
        return {
            "a": self.a,
            "b": self.b,
            "equal": self.equal,
            "compared": "keys" if self.keys else "values",
            "tensors": {
                **self.counts,
                "only_a": len(self.only_a),
                "only_b": len(self.only_b),
                "dtype": len(self.dtypes),
            },
            "only_a": _listed(self.only_a),
            "only_b": _listed(self.only_b),
            "shapes": [change.to_dict() for change in self.shapes],
            "dtypes": [change.to_dict() for change in self.dtypes],
            "components": [
                {
                    **group.to_dict(),
                    "blocks": [b.to_dict() for b in self.blocks if b.component == group.component],
                }
                for group in self.components
            ],
            "changed": [change.to_dict() for change in self.moved],
            "metadata": {
                "only_a": list(self.metadata.only_a),
                "only_b": list(self.metadata.only_b),
                "changed": list(self.metadata.changed),
            },
            "notes": list(self.notes),
        }


def spec_facts(spec: Spec) -> dict[str, Any]:
    """Return dtype and shape as JSON values."""
    return {"dtype": spec.dtype.name, "shape": list(spec.shape)}


def _listed(tensors: Mapping[str, tuple[Place, Spec]]) -> list[dict[str, Any]]:
    return [
        {"name": name, "component": place.component, **spec_facts(spec)}
        for name, (place, spec) in tensors.items()
    ]


def _far(change: Change) -> tuple[float, float]:
    """Order by relative norm; what cannot be measured comes first, being the most suspicious."""
    found = change.distance or Distance()
    relative = found.relative
    return (float("inf") if relative is None else relative), 1 - found.share


def _groups(changes: Iterable[Change], *, whole: bool) -> tuple[Group, ...]:
    members: dict[Place, list[Change]] = {}
    for change in changes:
        if change.distance is not None:
            place = change.place
            key = Place(place.component, "" if whole else place.block, "")
            members.setdefault(key, []).append(change)
    return tuple(_group(place, members[place], whole=whole) for place in sorted(members, key=order))


def _group(place: Place, changes: list[Change], *, whole: bool) -> Group:
    layers: dict[str, list[Distance]] = {}
    for change in changes:
        if change.distance is not None:
            layers.setdefault(change.place.layer, []).append(change.distance)
    sums = {name: reduce(Distance.__add__, found) for name, found in layers.items()}
    return Group(
        place.component,
        None if whole else place.block,
        len(changes),
        sum(change.state == "moved" for change in changes),
        reduce(Distance.__add__, sums.values(), Distance()),
        sums,
    )


def _figures(found: Distance) -> dict[str, Any]:
    return {
        "relative_norm": _number(found.relative),
        "cosine": _number(found.cosine),
        "equal_share": found.share,
        "max_abs": _number(found.largest),
        "nonfinite": found.odd,
    }


def _number(value: float | None) -> float | None:
    """Return what JSON can hold; it has neither infinity nor NaN."""
    return value if value is not None and isfinite(value) else None
