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


def shown(text: str, most: int = 200) -> str:
    """Return foreign text as it may be printed: no control characters, not too long."""
    return text if text.isprintable() and len(text) <= most else repr(text[:most])


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
    """A call that was recorded and not made; ``state`` is what BUILD would have set."""

    what: str
    args: tuple[Value, ...] = ()
    state: Value = None


class Mapped(dict[Value, Value]):
    """A dict of a known kind (OrderedDict, defaultdict…) with the attributes BUILD gave it."""

    __slots__ = ("kind", "state")

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.state: Value = None


@dataclass(frozen=True, eq=False, slots=True)
class Storage:
    """A flat piece of memory: one ``data/<key>`` member of a torch file."""

    key: str
    dtype: DType | None  # None: untyped, the view says
    nbytes: int


@dataclass(frozen=True, eq=False, slots=True)
class TensorView:
    """A tensor as torch sees it: a strided window on a storage."""

    storage: Storage
    dtype: DType
    itemsize: int  # bytes of one torch element
    offset: int  # in bytes
    shape: tuple[int, ...]  # in torch elements
    stride: tuple[int, ...]  # in torch elements

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


@dataclass(slots=True)
class Program:
    """What came out of one pickle program."""

    root: Value
    inert: dict[str, int] = field(default_factory=dict)  # harmless names kept as data, with counts
