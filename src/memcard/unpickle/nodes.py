"""What a pickle program builds here instead of objects: names, records of calls, storages, views.

Plain values (numbers, text, lists, tuples, dicts) stay plain. All nodes compare by identity, so a
hostile file gains nothing by using them as dict keys.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

from memcard.core.tensors import DType

Value: TypeAlias = Any  # a plain value or one of the nodes below


class BadCallError(Exception):
    """The arguments of a call or of a persistent id make no sense; the machine adds where."""


class UnsafeCallError(Exception):
    """A call of a harmless name that other programs would make something else of; says what."""


def shown(text: str, most: int = 200) -> str:
    """Return foreign text as it may be printed: no control characters, not too long."""
    return text if text.isprintable() and len(text) <= most else repr(text[:most])


def short(value: Value) -> str:
    """Show a foreign value in a few characters, without walking it."""
    if isinstance(value, str | bytes):
        return repr(value[:40])
    if isinstance(value, list | tuple) and len(value) <= 8:
        if all(isinstance(v, str | int | float) for v in value):
            return repr(value)[:80]
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, int | float | None):
        return repr(value)[:40]
    if isinstance(value, Global):
        return shown(value.full)
    return f"a {type(value).__name__}"


@dataclass(frozen=True, eq=False, slots=True)
class Global:
    """A name the file mentions. Never imported."""

    module: str
    name: str

    @property
    def full(self) -> str:
        """``module.name``."""
        return f"{self.module}.{self.name}"


@dataclass(eq=False, slots=True)
class Opaque:
    """A call that was recorded and not made, and what the program did with its result.

    ``state`` is what BUILD would have set; ``pairs`` and ``items`` are what would have been put in.
    """

    what: str
    args: tuple[Value, ...] = ()
    state: Value = None
    pairs: list[tuple[Value, Value]] | None = None
    items: list[Value] | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Parts:
    """A tensor that is kept as several plain ones, such as the indices and values of a sparse one.

    ``facts`` are the numbers beside them that the whole needs.
    """

    kind: str
    tensors: dict[str, Value]
    facts: dict[str, str]


class Mapped(dict[Value, Value]):
    """A dict of a known kind (OrderedDict, defaultdict…) with the attributes BUILD gave it."""

    __slots__ = ("kind", "state")

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.state: Value = None


@dataclass(frozen=True, eq=False, slots=True)
class Storage:
    """A flat piece of memory: one ``data/<key>`` member of a torch file, or a part of one."""

    key: str
    dtype: DType | None  # None: untyped, the view says
    nbytes: int
    start: int = 0  # in bytes; not 0 only for a view on another storage, as torch 0.3 wrote them


@dataclass(frozen=True, eq=False, slots=True)
class TensorView:
    """A tensor as torch sees it: a strided window on a storage."""

    storage: Storage
    dtype: DType
    itemsize: int  # bytes of one torch element
    offset: int  # in bytes, from the start of the whole storage
    shape: tuple[int, ...]  # in torch elements
    stride: tuple[int, ...]  # in torch elements
    conjugated: bool = False  # the imaginary parts mean their negative
    negated: bool = False  # all numbers mean their negative

    @property
    def nbytes(self) -> int:
        """Size of the values when laid out row-major."""
        total = self.itemsize
        for n in self.shape:
            total *= n
        return total

    @property
    def contiguous(self) -> bool:
        """Whether the values already lie row-major, without gaps."""
        if 0 in self.shape:
            return True
        step = 1
        for n, stride in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if n != 1 and stride != step:
                return False
            step *= n
        return True

    @property
    def as_stored(self) -> bool:
        """Whether the stored bytes are the values: row-major and neither conjugated nor negated."""
        return self.contiguous and not self.conjugated and not self.negated


@dataclass(slots=True)
class Program:
    """What came out of one pickle program."""

    root: Value
    inert: dict[str, int] = field(default_factory=dict)  # harmless names kept as data, with counts
