"""A recipe: which checkpoints go in, what is done to them, in what order.

A recipe holds no tensors. Nodes are frozen and hashable, so equal recipes are equal values and one
source named twice is opened once. The text form is in ``recipes/text.py``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

from memcard.core.tensors import Spec
from memcard.errors import UsageError

Value: TypeAlias = "bool | int | float | str | tuple[Value, ...] | Params | None"
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Params(Mapping[str, Value]):
    """JSON values by name, frozen: lists become tuples, objects become Params."""

    __slots__ = ("_items",)

    def __init__(self, values: Mapping[str, Any] | None = None) -> None:
        """Freeze ``values``.

        Raises:
            UsageError: a value is not JSON, or a number is NaN or infinite.
        """
        pairs = {
            _unicode(key, "params"): freeze(value, key) for key, value in (values or {}).items()
        }
        self._items: dict[str, Value] = {key: pairs[key] for key in sorted(pairs)}

    def __getitem__(self, key: str) -> Value:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(tuple(self._items.items()))

    def __repr__(self) -> str:
        return f"Params({self._items!r})"


def freeze(value: Any, where: str) -> Value:
    """Return ``value`` as an immutable JSON value.

    Raises:
        UsageError: it is not JSON, or a number is NaN or infinite; ``where`` names it.
    """
    if value is None or isinstance(value, (bool, Params)):
        return value
    if isinstance(value, str):
        return _unicode(value, where)
    if isinstance(value, int):
        if not -(1 << 63) <= value < 1 << 63:
            raise UsageError(f"{where}: a number of more than 64 bits.")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise UsageError(f"{where}: {value} is not a number a recipe can hold.")
        return value
    if isinstance(value, Mapping):
        return Params(cast("Mapping[str, Any]", value))
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray, memoryview)):
        return tuple(freeze(item, where) for item in value)
    raise UsageError(f"{where}: a recipe cannot hold a {type(value).__name__}.")


def _unicode(text: str, where: str) -> str:
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise UsageError(f"{where}: {text!r} is not valid Unicode.")
    return text


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint by name; where ``sha256`` is known, that decides and ``ref`` is a hint."""

    ref: str
    sha256: str | None = None

    def __post_init__(self) -> None:
        if not self.ref:
            raise UsageError("a source needs a path or a name.")
        _unicode(self.ref, "source")
        if self.sha256 is not None and not _SHA256.fullmatch(self.sha256):
            raise UsageError(f"{self.ref}: {self.sha256!r} is not a SHA-256 of 64 hex digits.")


@dataclass(frozen=True, slots=True)
class Apply:
    """One operation on the results of other nodes."""

    op: str
    inputs: tuple[Node, ...]
    params: Params = field(default_factory=Params)


Node: TypeAlias = Source | Apply


@dataclass(frozen=True, slots=True)
class Step:
    """How one output tensor is made.

    Attributes:
        needs: (input, tensor name) read element by element with the output; each has as many
            elements as the output, of any dtype.
        small: (input, tensor name) read whole for every chunk: factors, scales.
        whole: the operation must see the whole tensor at once, not a chunk of it.
        copy: the bytes of ``needs[0]`` are the result; nothing is computed.
        block: elements that are computed together, a divisor of all there are: the inputs' blocks.
        detail: what ``plan`` found out and ``apply`` wants to know; any immutable value.
        measure: the operation reads the tensor once before it computes any of it.
        stats: what it found then; filled in by the executor.
        note: what a careful user should know about this tensor; "" if nothing.
    """

    name: str
    spec: Spec
    needs: tuple[tuple[int, str], ...]
    small: tuple[tuple[int, str], ...] = ()
    whole: bool = False
    copy: bool = False
    block: int = 1
    detail: Any = None
    note: str = ""
    measure: bool = False
    stats: Any = None


def sources(node: Node) -> tuple[Source, ...]:
    """List the sources of a recipe from left to right, each once."""
    if isinstance(node, Source):
        return (node,)
    found = dict.fromkeys(source for child in node.inputs for source in sources(child))
    return tuple(found)
