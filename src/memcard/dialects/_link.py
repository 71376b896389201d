"""One line of a dictionary between two dialects: which tensors on one side are which on the other.

A link holds name templates for both sides and says what differs beside the names. It is written once
and read in both directions, so that a mapping and its inverse cannot disagree.

    Link(("{n}.qkv.{leaf}",), ("{n}.to_q.{leaf}", "{n}.to_k.{leaf}", "{n}.to_v.{leaf}"))

``{n}`` is a number, ``{leaf}`` a word without dots, ``{rest}`` anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

from memcard.core.tensors import Spec, Specs
from memcard.core.views import Arrangement, Piece

Side: TypeAlias = Literal["ldm", "diffusers"]
Change: TypeAlias = Literal["", "swap", "transpose", "matrix"]

_PLACES = {"n": r"\d+", "leaf": r"[^.]+", "rest": r".+"}


@dataclass(frozen=True, slots=True)
class Link:
    """Tensors of one side and of the other that hold the same rows.

    Attributes:
        ldm: templates; with more than one, their rows follow one another.
        diffusers: the same for the other side.
        change: beside the names: ``swap`` exchanges the halves of the rows, ``transpose`` rows and
            columns, ``matrix`` is a 1x1 convolution in LDM and a matrix in diffusers.
        rows: how many rows of the LDM tensor each diffusers tensor takes, None for the rest; () for
            equal parts.
    """

    ldm: tuple[str, ...]
    diffusers: tuple[str, ...]
    change: Change = ""
    rows: tuple[int | None, ...] = ()

    def side(self, side: Side) -> tuple[str, ...]:
        """Return the templates of one side."""
        return self.ldm if side == "ldm" else self.diffusers


def same(ldm: str, diffusers: str, change: Change = "") -> Link:
    """Link one tensor to one."""
    return Link((ldm,), (diffusers,), change)


@dataclass(frozen=True, slots=True)
class _Template:
    pattern: re.Pattern[str]
    link: Link
    place: int  # which of the link's templates


class Dictionary:
    """Links, ready to translate whole lists of tensors."""

    def __init__(self, links: Sequence[Link]) -> None:
        self.links = tuple(links)

    @cached_property
    def _tables(self) -> Mapping[Side, Mapping[str, list[_Template]]]:
        return {"ldm": _table(self.links, "ldm"), "diffusers": _table(self.links, "diffusers")}

    def translate(
        self, specs: Specs, origin: Side
    ) -> tuple[dict[str, Arrangement], list[str], list[str]]:
        """Translate tensors to the other side.

        Returns:
            The tensors of the other side, the names that no link knows, and faults: tensors that
            cannot be split or joined as their link says, one sentence each.
        """
        target: Side = "diffusers" if origin == "ldm" else "ldm"
        groups: dict[tuple[Link, tuple[tuple[str, str], ...]], dict[int, str]] = {}
        unknown = []
        for name in specs:
            found = self._find(name, origin)
            if found is None:
                unknown.append(name)
                continue
            template, values = found
            groups.setdefault((template.link, values), {})[template.place] = name
        made: dict[str, Arrangement] = {}
        faults: list[str] = []
        for (link, values), names in groups.items():
            wanted = [text.format(**dict(values)) for text in link.side(origin)]
            if len(names) < len(wanted):
                there = next(iter(names.values()))
                missing = [w for i, w in enumerate(wanted) if i not in names]
                faults.append(f"{there!r} is there, but not {', '.join(map(repr, missing))}")
                continue
            named = [text.format(**dict(values)) for text in link.side(target)]
            sources = [(names[i], specs[names[i]]) for i in range(len(wanted))]
            try:
                made.update(zip(named, _arrange(link, target, sources), strict=True))
            except _MisfitError as error:
                faults.append(str(error))
        return made, unknown, faults

    def group(self, name: str, side: Side) -> tuple[Link, tuple[str, ...]] | None:
        """Return the link that knows a name, and all names of this side that belong together."""
        found = self._find(name, side)
        if found is None:
            return None
        template, values = found
        names = tuple(text.format(**dict(values)) for text in template.link.side(side))
        return template.link, names

    def knows(self, name: str, side: Side) -> bool:
        """Tell whether a name is one of a side."""
        return self._find(name, side) is not None

    def _find(self, name: str, side: Side) -> tuple[_Template, tuple[tuple[str, str], ...]] | None:
        table = self._tables[side]
        for head in _heads(name):
            for template in table.get(head, ()):
                if match := template.pattern.fullmatch(name):
                    return template, tuple(match.groupdict().items())
        return None


class _MisfitError(Exception):
    """A tensor has not the shape its link needs; collected, never seen by callers."""


def _heads(name: str) -> Iterator[str]:
    """Yield the name and its beginnings at dots, the longest first; then nothing at all."""
    while name:
        yield name
        name = name.rpartition(".")[0]
    yield ""


def _table(links: Sequence[Link], side: Side) -> Mapping[str, list[_Template]]:
    """Index templates by what stands before the first placeholder, cut at a dot.

    A UNet has 200 links and 2,000 tensors; asking every link about every tensor takes a second.
    """
    table: dict[str, list[_Template]] = {}
    for link in links:
        for place, text in enumerate(link.side(side)):
            fixed, brace, _ = text.partition("{")
            head = fixed.rpartition(".")[0] if brace else text
            table.setdefault(head, []).append(_Template(_pattern(text), link, place))
    return table


def _pattern(text: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", text)
    made = [
        f"(?P<{part}>{_PLACES[part]})" if i % 2 else re.escape(part) for i, part in enumerate(parts)
    ]
    return re.compile("".join(made))


def _arrange(link: Link, target: Side, sources: Sequence[tuple[str, Spec]]) -> list[Arrangement]:
    """Return the tensors of the target side, in the order of the link's templates."""
    count = len(link.side(target))
    if len(sources) == count == 1:
        return [_one(link.change, target, *sources[0])]
    spec, pieces = _stack(sources)
    if count == 1:
        return [Arrangement(spec, pieces)]
    if len(sources) > 1:  # no family needs it, and equal parts would be a guess
        raise _MisfitError(f"{sources[0][0]!r}: {len(sources)} tensors cannot become {count}")
    return _split(sources[0][0], spec, count, link.rows)


def _one(change: Change, target: Side, name: str, spec: Spec) -> Arrangement:
    whole = (Piece(name, 0, spec.nbytes),)
    if change == "swap":
        half, odd = divmod(spec.nbytes, 2)
        if not spec.shape or spec.shape[0] % 2 or odd:
            raise _MisfitError(f"{name!r}: {spec} has no two halves to exchange")
        return Arrangement(spec, (Piece(name, half, half), Piece(name, 0, half)))
    if change == "transpose":
        if len(spec.shape) != 2 or spec.dtype.block != 1:
            raise _MisfitError(f"{name!r}: {spec} is no matrix of single values to transpose")
        return Arrangement(Spec(spec.dtype, spec.shape[::-1]), whole, transposed=True)
    if change == "matrix":
        return Arrangement(Spec(spec.dtype, _matrix(spec.shape, target)), whole)
    return Arrangement(spec, whole)


def _matrix(shape: tuple[int, ...], target: Side) -> tuple[int, ...]:
    if target == "diffusers":
        return shape[:2] if len(shape) > 2 and set(shape[2:]) == {1} else shape
    return (*shape, 1, 1) if len(shape) == 2 else shape  # a bias has one dimension and keeps it


def _stack(sources: Sequence[tuple[str, Spec]]) -> tuple[Spec, tuple[Piece, ...]]:
    first = sources[0][1]
    for name, spec in sources:
        if not spec.shape or spec.shape[1:] != first.shape[1:] or spec.dtype != first.dtype:
            raise _MisfitError(
                f"{name!r}: {spec} and {sources[0][0]!r}: {first} cannot be rows of one tensor"
            )
    rows = sum(spec.shape[0] for _, spec in sources)
    pieces = tuple(Piece(name, 0, spec.nbytes) for name, spec in sources)
    return Spec(first.dtype, (rows, *first.shape[1:])), pieces


def _split(name: str, spec: Spec, count: int, rows: tuple[int | None, ...]) -> list[Arrangement]:
    total = spec.shape[0]
    if rows:
        rest = total - sum(n for n in rows if n is not None)
        parts = [rest if n is None else n for n in rows]
    else:
        parts = [total // count] * count
    width, odd = divmod(spec.nbytes, total) if total else (0, 0)
    if sum(parts) != total or min(parts) < 0 or odd:
        raise _MisfitError(f"{name!r}: {spec} cannot be split into rows of {parts}")
    made, at = [], 0
    for n in parts:
        made.append(
            Arrangement(Spec(spec.dtype, (n, *spec.shape[1:])), (Piece(name, at, n * width),))
        )
        at += n * width
    return made
