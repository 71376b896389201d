"""Signs by which a family is known: facts on names, shapes and metadata, each with its sentence.

A sign takes several keys where the layouts differ: ``width(("img_in.weight", "x_embedder.weight"),
1, 384)`` looks at whichever is there. A key that ends with a dot means every name below it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from memcard.architectures._names import Root

Keys: TypeAlias = str | tuple[str, ...]

_MOST_SHOWN: Final = 80  # characters of metadata; model_index.json is longer
_MOST_BLOCKS: Final = 200  # no published model has more than 100 blocks of one kind


class Sign(Protocol):
    """One fact to look for."""

    def test(self, root: Root, metadata: Mapping[str, str], *, sure: bool = False) -> str | None:
        """Return what was seen, "" if it is not worth a sentence, None if the sign is not there.

        Args:
            root: the names after the prefix.
            metadata: of the file.
            sure: a packed shape that cannot be told counts as not there.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Has:
    keys: tuple[str, ...]
    says: str

    def test(self, root: Root, metadata: Mapping[str, str], *, sure: bool = False) -> str | None:
        for key in self.keys:
            if key in root or (key.endswith(".") and root.below(key)):
                return _sentence(f"has {root.prefix}{key}{'*' if key.endswith('.') else ''}", self)
        return None


@dataclass(frozen=True, slots=True)
class _Lacks:
    keys: tuple[str, ...]
    says: str

    def test(self, root: Root, metadata: Mapping[str, str], *, sure: bool = False) -> str | None:
        for key in self.keys:
            if key in root or (key.endswith(".") and root.below(key)):
                return None
        return _sentence(f"has no {self.keys[0]}", self) if self.says else ""


@dataclass(frozen=True, slots=True)
class _Width:
    keys: tuple[str, ...]
    axis: int
    values: tuple[int, ...]
    says: str

    def test(self, root: Root, metadata: Mapping[str, str], *, sure: bool = False) -> str | None:
        key = next((key for key in self.keys if key in root), None)
        if key is None:
            return None
        shape = root.shape(key)
        if shape is None:
            return None if sure else f"{key} is there, packed so that its width cannot be told"
        if not -len(shape) <= self.axis < len(shape):
            return None
        value = shape[self.axis]
        what = "is {} wide" if len(shape) == 2 else "takes {} channels"
        if self.axis not in (1, -1):
            what = "is {} long" if len(shape) == 1 else "gives {}"
        return _sentence(f"{key} {what.format(value)}", self) if value in self.values else None


@dataclass(frozen=True, slots=True)
class _Narrow:
    keys: tuple[str, ...]
    axis: int
    below: int
    says: str

    def test(self, root: Root, metadata: Mapping[str, str], *, sure: bool = False) -> str | None:
        key = next((key for key in self.keys if key in root), None)
        shape = root.shape(key) if key else None
        if not shape or not -len(shape) <= self.axis < len(shape):
            return None
        value = shape[self.axis]
        return _sentence(f"{key} is {value} wide", self) if 0 < value < self.below else None


@dataclass(frozen=True, slots=True)
class _Rank:
    keys: tuple[str, ...]
    dimensions: int
    says: str

    def test(self, root: Root, metadata: Mapping[str, str], *, sure: bool = False) -> str | None:
        key = next((key for key in self.keys if key in root), None)
        if key is None:
            return None
        shape = root.shape(key)
        if shape is None:
            return None if sure else ""
        same = len(shape) == self.dimensions
        return (
            (_sentence(f"{key} has {len(shape)} axes", self) if self.says else "") if same else None
        )


@dataclass(frozen=True, slots=True)
class _Count:
    patterns: tuple[str, ...]
    values: tuple[int, ...]
    says: str

    def test(self, root: Root, metadata: Mapping[str, str], *, sure: bool = False) -> str | None:
        for pattern in self.patterns:
            found = sum(pattern.format(i) in root for i in range(_MOST_BLOCKS))
            if found in self.values:
                fact = f"has {found} of {pattern.format('N')}"
                return _sentence(fact, self) if self.says else ""
        return None


@dataclass(frozen=True, slots=True)
class _Said:
    key: str
    values: tuple[str, ...]

    def test(self, root: Root, metadata: Mapping[str, str], *, sure: bool = False) -> str | None:
        text = metadata.get(self.key, "")
        found = next((value for value in self.values if value in text.lower()), None)
        if found is None:
            return None
        return f"metadata {self.key} says {(text if len(text) <= _MOST_SHOWN else found)!r}"


@dataclass(frozen=True, slots=True)
class _Unsaid:
    key: str
    values: tuple[str, ...]

    def test(self, root: Root, metadata: Mapping[str, str], *, sure: bool = False) -> str | None:
        text = metadata.get(self.key, "").lower()
        return None if any(value in text for value in self.values) else ""


@dataclass(frozen=True, slots=True)
class _Any:
    signs: tuple[Sign, ...]

    def test(self, root: Root, metadata: Mapping[str, str], *, sure: bool = False) -> str | None:
        for sign in self.signs:
            if (seen := sign.test(root, metadata, sure=sure)) is not None:
                return seen
        return None


@dataclass(frozen=True, slots=True)
class _AllOf:
    signs: tuple[Sign, ...]

    def test(self, root: Root, metadata: Mapping[str, str], *, sure: bool = False) -> str | None:
        seen = [sign.test(root, metadata, sure=sure) for sign in self.signs]
        facts = [fact for fact in seen if fact is not None]
        return "; ".join(filter(None, facts)) if len(facts) == len(seen) else None


def _sentence(fact: str, sign: _Has | _Lacks | _Width | _Narrow | _Rank | _Count) -> str:
    return f"{fact}: {sign.says}" if sign.says else fact


def _tuple(keys: Keys) -> tuple[str, ...]:
    return (keys,) if isinstance(keys, str) else keys


def has(*keys: str, says: str = "") -> Sign:
    """Look for any one of these names; ``says`` tells what that means."""
    return _Has(keys, says)


def lacks(*keys: str, says: str = "") -> Sign:
    """None of these names is there; no sentence unless ``says`` gives it a meaning."""
    return _Lacks(keys, says)


def width(keys: Keys, axis: int, *values: int, says: str = "") -> Sign:
    """The first of these names that is there has one of these sizes along ``axis``.

    Packed weights (NVFP4, NF4) are seen unpacked. Where a header cannot tell, a family's sign holds
    and a variant's does not.
    """
    return _Width(_tuple(keys), axis, values, says)


def narrow(keys: Keys, axis: int, below: int, says: str = "") -> Sign:
    """The first of these names that is there is smaller than every published model: a small twin."""
    return _Narrow(_tuple(keys), axis, below, says)


def rank(keys: Keys, dimensions: int, says: str = "") -> Sign:
    """The first of these names that is there has so many axes: a matrix 2, an image kernel 4."""
    return _Rank(_tuple(keys), dimensions, says)


def count(patterns: Keys, *values: int, says: str = "") -> Sign:
    """One of these patterns, with 0, 1, 2… for ``{}``, is there one of these numbers of times.

    No sentence unless ``says`` gives it a meaning.
    """
    return _Count(_tuple(patterns), values, says)


def said(key: str, *values: str) -> Sign:
    """The metadata under ``key`` contains one of these texts, which are in lower case."""
    return _Said(key, values)


def unsaid(key: str, *values: str) -> Sign:
    """The metadata under ``key`` contains none of these texts; it may be missing."""
    return _Unsaid(key, values)


def all_of(*signs: Sign) -> Sign:
    """All of these signs are there; for use within ``any_of``."""
    return _AllOf(signs)


def any_of(*signs: Sign) -> Sign:
    """One of these signs is there."""
    return _Any(signs)
