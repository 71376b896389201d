"""Weighted sums of checkpoints as exact fractions, so that nested linear merges become one.

``A + 0.5 (B - C)``, then ``0.7 of that + 0.3 D`` is ``0.7 A + 0.35 B - 0.35 C + 0.3 D``: one pass over the
files, one rounding, where other programs round at every step.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

from memcard.core.limits import DEFAULT
from memcard.errors import CorruptError, UnsupportedError
from memcard.ops import OPS
from memcard.recipes.nodes import Apply, Node, Params, Source
from memcard.recipes.op import Op, check_arity, complete

_LARGEST = sys.float_info.max
_MOST = 2000  # nodes of an imported recipe

Names: TypeAlias = Callable[[Source], Sequence[str]]  # the names of a checkpoint's tensors


@dataclass(frozen=True, slots=True)
class Imported:
    """A recipe that was read.

    Attributes:
        node: the recipe; sources are named as in the text it was read from.
        notes: what of the text has no bearing on the weights, or is done in another way; one sentence each.
    """

    node: Node
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Mix:
    """A weighted sum. The shares of weights add up to 1, those of changes to 0."""

    shares: Mapping[Node, Fraction]

    @classmethod
    def of(cls, node: Node) -> Mix:
        """Return the sum of one."""
        return cls({node: Fraction(1)})

    @property
    def total(self) -> Fraction:
        """The sum of all shares."""
        return sum(self.shares.values(), Fraction(0))

    def scaled(self, factor: Fraction) -> Mix:
        """Multiply all shares."""
        return Mix({node: share * factor for node, share in self.shares.items()})

    def plus(self, other: Mix, factor: Fraction | int = 1) -> Mix:
        """Add ``factor`` times another."""
        found = dict(self.shares)
        for node, share in other.shares.items():
            found[node] = found.get(node, Fraction(0)) + share * factor
        return Mix(found)

    def node(self, dtype: str = "widest") -> Node:
        """Return the recipe: a checkpoint itself if there is nothing to add to it."""
        used = {node: share for node, share in self.shares.items() if share}
        if not used:
            raise UnsupportedError("recipe: all weights cancel out; the result would be zero.")
        if list(used.values()) == [1] and dtype == "widest":
            return next(iter(used))
        # The first decides over names and order, so it stays even with a share of zero.
        first = next(iter(self.shares))
        kept = {first: self.shares[first], **used}
        weights = tuple(float(share) for share in kept.values())
        return operation(
            "weighted_average", tuple(kept), weights=weights, normalize=False, dtype=dtype
        )


def lerp(a: Mix, b: Mix, alpha: Fraction) -> Mix:
    """Return ``(1 - alpha) a + alpha b``."""
    return a.scaled(1 - alpha).plus(b, alpha)


def exact(value: Any, where: str) -> Fraction:
    """Return a number as people wrote it: 0.3 is three tenths, so 1 - 0.3 is 0.7.

    Raises:
        CorruptError: not a finite number.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise CorruptError(f"{where}: {value!r} is not a number.")
    # By way of a float, or 1e999999999 would become a number of a billion digits.
    if abs(value) > _LARGEST or value != value:  # NaN
        raise CorruptError(f"{where}: not a finite number.")
    return Fraction(repr(float(value)))


def operation(name: str, inputs: tuple[Node, ...], **params: Any) -> Apply:
    """Return one operation with every parameter written out.

    Raises:
        UnsupportedError: this memcard does not have it, or not with these parameters.
    """
    op = known(name)
    extra = [key for key in params if key not in op.params]
    if extra:
        raise UnsupportedError(
            f"recipe: {name} has no parameter {', '.join(extra)} here; it takes: "
            f"{', '.join(op.params) or 'none'}."
        )
    check_arity(name, op, len(inputs))
    sizes = [_size(node) for node in inputs]
    if (
        sum(nodes for nodes, _ in sizes) > _MOST
        or max(depth for _, depth in sizes) >= DEFAULT.nesting
    ):
        # a text that names each result twice doubles with every line; a recipe is a tree
        raise UnsupportedError(
            f"recipe: more than {_MOST} operations, or nested deeper than {DEFAULT.nesting}."
        )
    return Apply(name, inputs, complete(name, op, Params(params)))


def _size(node: Node) -> tuple[int, int]:
    """Return how many nodes a recipe has, and how deep they are nested."""
    if isinstance(node, Source):
        return 1, 0
    sizes = [_size(child) for child in node.inputs]
    return 1 + sum(nodes for nodes, _ in sizes), 1 + max(depth for _, depth in sizes)


def known(name: str) -> Op:
    """Return the operation of this name.

    Raises:
        UnsupportedError: there is none.
    """
    if name not in tuple(OPS):
        raise UnsupportedError(
            f"recipe: it uses the method {name!r}, which this memcard does not have. "
            f"There are: {', '.join(OPS)}."
        )
    return OPS[name]


def by_name(
    name: str,
    inputs: tuple[Node, ...],
    settings: Mapping[str, Any],
    rules: Sequence[tuple[Mapping[str, Sequence[str]], Mapping[str, Any]]],
) -> Apply:
    """Return an operation whose parameters differ between tensors.

    Args:
        name: of the operation.
        inputs: of the operation.
        settings: its parameters where no rule fits.
        rules: ``{"names": …}`` or ``{"prefixes": …}``, and the parameters there; the first that fits decides.
    """
    plain = operation(name, inputs, **settings)
    changes = [
        {**where, "set": {k: v for k, v in operation(name, inputs, **values).params.items()
                          if v != plain.params[k]}}
        for where, values in rules
    ]  # fmt: skip
    if not any(change["set"] for change in changes):
        return plain
    return operation("by_block", inputs, method=name, settings=plain.params, rules=tuple(changes))
