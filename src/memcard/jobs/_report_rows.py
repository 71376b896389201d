"""A merge report as facts: one row for every block, one distance for every parent."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from memcard.jobs._blocks import Place, order
from memcard.jobs.resolve import label

if TYPE_CHECKING:
    from memcard.jobs._differences import Diff
    from memcard.maths.compare import Distance


@dataclass(frozen=True, slots=True)
class Row:
    """One block, or one component, against every parent.

    Attributes:
        component: of the model.
        block: None for the whole component.
        distances: from each parent to the result; None where the parent does not have the block.
    """

    component: str
    block: str | None
    distances: tuple[Distance | None, ...]

    @property
    def equal(self) -> bool:
        """Whether it is the same, bit for bit, in the result and in every parent that has it."""
        return all(found is None or found.same for found in self.distances)

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        return {
            "component": self.component,
            "block": self.block,
            "relative_norm": [d.relative if d else None for d in self.distances],
            "equal_share": [d.share if d else None for d in self.distances],
        }


@dataclass(frozen=True)
class MergeReport:
    """The result of a merge against its parents.

    Attributes:
        out: the result, as the user named it.
        parents: as the user named them, the base first if there is one.
        diffs: from each parent to the result.
    """

    out: str
    parents: tuple[str, ...]
    diffs: tuple[Diff, ...]

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """Components, each followed by its blocks, in the order in which a model computes."""
        found: dict[tuple[str, str | None], list[Distance | None]] = {}
        for i, one in enumerate(self.diffs):
            for group in (*one.components, *one.blocks):
                key = group.component, group.block
                found.setdefault(key, [None] * len(self.diffs))[i] = group.distance
        places = sorted(found, key=lambda key: order(Place(key[0], key[1] or "", "")))
        components = dict.fromkeys(component for component, _ in places)
        return tuple(
            Row(component, block, tuple(found[component, block]))
            for wanted in components
            for component, block in sorted(
                (place for place in places if place[0] == wanted), key=lambda p: p[1] is not None
            )
        )

    @cached_property
    def shown(self) -> tuple[Row, ...]:
        """The rows worth a person's time: a component that equals all its parents is one of them."""
        moved = {row.component for row in self.rows if row.block is None and not row.equal}
        return tuple(row for row in self.rows if row.block is None or row.component in moved)

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        return {
            "out": self.out,
            "parents": list(self.parents),
            "rows": [row.to_dict() for row in self.rows],
        }


def letter(index: int) -> str:
    """Return the short name of a parent: A, B, … Z, then AA."""
    first, last = divmod(index, 26)
    return (letter(first - 1) if first else "") + chr(ord("A") + last)


def short(name: str) -> str:
    """Return what people know a file by, without its folders."""
    return label(name)
