"""A save of a training as the way from the save before it: what its record says in place of a recipe.

What is foretold of a tensor is the base its values are stored as a difference to. A weight is foretold from the
earlier save and from the moments of the later one, which are read first: the first moment needs the second one,
the second one needs nothing of its own save. Specified in ``docs/spec/pack.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import local
from typing import TYPE_CHECKING, Any, Final, Protocol

from memcard.core.tensors import Specs
from memcard.errors import CorruptError, NotFoundError, UnsupportedError

if TYPE_CHECKING:  # most packed checkpoints have no such path, and numpy takes long to load
    from memcard.maths.training_path import Array, Path

VERSION: Final = 1
MARK: Final = "training_path"
FIRST, SECOND = ".exp_avg", ".exp_avg_sq"
_OWN: Final = local()  # the moments each thread has just now


class Readable(Protocol):
    """What values are read from."""

    def readinto(self, name: str, into: memoryview, offset: int = 0) -> None:
        """Fill ``into`` with the bytes of a tensor from ``offset`` on."""


@dataclass(frozen=True)
class Document:
    """What a record says.

    Attributes:
        source: id of the manifest of the earlier save.
        path: the numbers.
        weights: by name: the name in the earlier save, and what the names of the moments begin with in the
            earlier and in this one; "" where there are none.
        first: first moments by what their names begin with, and the same in the earlier save; "": not looked at.
        second: second moments in the same way; each has an earlier one.
        same: tensors of any dtype that are those of the earlier checkpoint, by name, with their names there.
    """

    source: str
    path: Path
    weights: Mapping[str, tuple[str, str, str]] = field(default_factory=dict)
    first: Mapping[str, str] = field(default_factory=dict)
    second: Mapping[str, str] = field(default_factory=dict)
    same: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            MARK: VERSION,
            "source": self.source,
            "path": self.path.to_dict(),
            "weights": {name: list(parts) for name, parts in self.weights.items()},
            "first": dict(self.first),
            "second": dict(self.second),
            "same": dict(self.same),
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Document:
        """Read them.

        Raises:
            CorruptError: something is missing or of another kind.
            UnsupportedError: a newer memcard wrote it.
        """
        from memcard.maths.training_path import Path

        version = found.get(MARK)
        if isinstance(version, int) and version > VERSION:
            raise UnsupportedError(
                f"a training path of version {version}; this memcard knows {VERSION}. "
                "Upgrade it: pip install --upgrade memcard."
            )
        try:
            weights = {n: (str(a), str(b), str(c)) for n, (a, b, c) in found["weights"].items()}
            stems = [
                {str(k): str(v) for k, v in found[kind].items()}
                for kind in ("first", "second", "same")
            ]
            source, numbers = str(found["source"]), dict(found["path"])
        except (AttributeError, KeyError, TypeError, ValueError):
            raise CorruptError(
                "a training path is not shaped like one: the record it stands in is damaged or forged."
            ) from None
        return cls(source, Path.from_mapping(numbers), weights, *stems)

    def names(self) -> frozenset[str]:
        """Return the tensors that are foretold."""
        moments = [s + FIRST for s in self.first] + [s + SECOND for s in self.second]
        return frozenset([*self.weights, *moments, *self.same])


class _Moments:
    """Reads moments of a checkpoint; the blocks stay until the value is computed that is asked for."""

    def __init__(self, owner: Readable) -> None:
        self._owner = owner

    def read(self, name: str, offset: int, size: int) -> Array:
        """Return float32 values that stay as they are."""
        import numpy as np

        key = self, name, offset, size
        if key not in _OWN.kept:
            part = bytearray(size)
            self._owner.readinto(name, memoryview(part), offset)
            _OWN.kept[key] = np.frombuffer(part, "<f4")
        values: Array = _OWN.kept[key]
        return values

    def let_go(self) -> None:
        """Forget the blocks of this thread."""
        for key in [k for k in _OWN.kept if k[0] is self]:
            del _OWN.kept[key]


@contextmanager
def _outermost(name: str) -> Iterator[None]:
    """Keep moments while this value is computed, and those it is computed from."""
    if "kept" in _OWN.__dict__:
        yield
        return
    _OWN.kept, _OWN.alone = {}, name.endswith(SECOND)
    try:
        yield
    finally:
        _OWN.__dict__.clear()


class PathCheckpoint:
    """What a document foretells, computed where it is read; reads from any thread."""

    format = "recipe"

    def __init__(self, document: Document, source: Any, own: Readable, specs: Specs) -> None:
        """Name what it is computed from.

        Args:
            document: of the record.
            source: the earlier save, a checkpoint; closed with this one.
            own: the later save, of which only moments are read.
            specs: of the later save.

        Raises:
            CorruptError: the document names tensors that are not there, or of another kind.
        """
        self._document, self._source = document, source
        names = document.names()
        self.specs: Specs = {n: s for n, s in specs.items() if n in names}
        self.metadata: Mapping[str, str] = {}
        self.notes: Sequence[str] = ()
        self.own = _Moments(own)
        behind = getattr(source, "foretold", None)
        self._behind = behind if isinstance(behind, PathCheckpoint) else None
        self._before = _Moments(source) if self._behind is None else self._behind.own
        self._check(specs)

    def _check(self, specs: Specs) -> None:
        old, document = self._source.specs, self._document
        pairs = [(n, a) for n, (a, _, _) in document.weights.items()]
        for name, (_, before, after) in document.weights.items():
            pairs += [
                (name, end)
                for end in (before and before + FIRST, before and before + SECOND)
                if end
            ]
            self._alike(specs, specs, name, [after + FIRST, after + SECOND] if after else [])
        for stem, before in document.first.items():
            self._alike(specs, specs, stem + FIRST, [stem + SECOND])
            pairs += [(stem + FIRST, before + end) for end in (FIRST, SECOND) if before]
        pairs += [(stem + SECOND, before + SECOND) for stem, before in document.second.items()]
        for name, other in pairs:
            self._alike(specs, old, name, [other])
        for name, other in document.same.items():
            if name not in specs or specs[name] != old.get(other):
                raise CorruptError(
                    f"a training path says that {name!r} is {other!r} of the earlier checkpoint, which has no such "
                    "tensor of that shape. The record it stands in is damaged or forged."
                )

    @staticmethod
    def _alike(specs: Specs, theirs: Specs, name: str, others: Sequence[str]) -> None:
        for other in others:
            one, two = specs.get(name), theirs.get(other)
            if one is None or two is None or one.dtype.name != "F32" or two != one:
                raise CorruptError(
                    f"a training path foretells {name!r} from {other!r}, which is missing, or not of the same "
                    "shape and float32. The record it stands in is damaged or forged."
                )

    def read(self, name: str) -> memoryview:
        """Compute one tensor."""
        whole = memoryview(bytearray(self.specs[name].nbytes))
        self.readinto(name, whole)
        return whole.toreadonly()

    def readinto(self, name: str, into: memoryview, offset: int = 0) -> None:
        """Compute the bytes of one tensor from ``offset`` on."""
        if name not in self.specs:
            raise NotFoundError(f"the training path foretells no tensor {name!r}.")
        if name in self._document.same:
            self._source.readinto(self._document.same[name], into, offset)
            return
        begin, end = offset // 4 * 4, -(-(offset + len(into)) // 4) * 4
        with _outermost(name):
            if (begin, end) == (offset, offset + len(into)):
                self._compute(name, into, offset)
                return
            around = memoryview(bytearray(end - begin))
            self._compute(name, around, begin)
            into[:] = around[offset - begin :][: len(into)]

    def extent(self, name: str) -> None:
        """Nowhere: the bytes lie in no file."""

    def close(self) -> None:
        """Close the earlier save."""
        self._source.close()

    def _compute(self, name: str, into: memoryview, offset: int) -> None:
        import numpy as np

        from memcard.maths.training_path import foretell_first, foretell_second, foretell_weight

        out, size = np.frombuffer(into, "<f4"), len(into)
        document, path = self._document, self._document.path
        if name in document.weights:
            old, before, after = document.weights[name]
            self._source.readinto(old, into, offset)
            if self._behind is not None:  # what it was foretold from itself: 8 MB of each thread
                self._behind.let_go()
            then = self._pair(self._before, before, offset, size)
            foretell_weight(path, out, then, self._pair(self.own, after, offset, size), out)
        elif name.endswith(SECOND):
            before = document.second[name.removesuffix(SECOND)] + SECOND
            if _OWN.alone:  # nobody else needs the earlier one
                self._source.readinto(before, into, offset)
                foretell_second(path, out, out)
            else:
                foretell_second(path, self._before.read(before, offset, size), out)
        else:
            stem = name.removesuffix(FIRST)
            second = self.own.read(stem + SECOND, offset, size)
            then = self._pair(self._before, document.first[stem], offset, size)
            if self._behind is not None:
                self._behind.let_go()
            foretell_first(path, then, second, out)

    def let_go(self) -> None:
        """Forget the moments of the earlier save that this thread still has."""
        self._before.let_go()

    @staticmethod
    def _pair(moments: _Moments, stem: str, offset: int, size: int) -> tuple[Array, Array] | None:
        if not stem:
            return None
        second = moments.read(stem + SECOND, offset, size)
        return moments.read(stem + FIRST, offset, size), second


def opened(
    found: Mapping[str, Any], own: Readable, specs: Specs, source: Callable[[str], Any]
) -> PathCheckpoint:
    """Return what the document of a record foretells.

    Args:
        found: the document.
        own: the checkpoint of the record.
        specs: of it.
        source: opens the earlier save by the id of its manifest.
    """
    document = Document.from_dict(found)
    earlier = source(document.source)
    try:
        return PathCheckpoint(document, earlier, own, specs)
    except BaseException:
        earlier.close()
        raise
