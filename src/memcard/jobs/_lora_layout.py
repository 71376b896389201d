"""Which rows of which modules make a module of the other dialect, and the factors that follow.

Original files hold query, key and value as one matrix, diffusers as three. Split, each part keeps the
whole ``down`` and takes its rows of ``up``. Joined, parts with the same ``down`` become one module of the
same rank: so going there and back gives the same bits. Other parts are laid side by side: the ranks
add up and zeros fill the rest, which is the same change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from memcard.core.tensors import DTYPES, Spec
from memcard.dialects import Side
from memcard.dialects._link import Link
from memcard.jobs._lora_book import Book, Name

_FLUX_MLP: Final = 4  # rows of Flux' fused MLP for each row of its query


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a module of the source; ``name`` is None for rows of zeros."""

    name: Name | None
    at: int
    rows: int


@dataclass(frozen=True, slots=True)
class Layout:
    """A module of the target.

    Attributes:
        name: on the target's side.
        rows: what its rows are, in order; () for one module as it is.
        source: that module; None if there are rows.
    """

    name: Name
    rows: tuple[Rows, ...] = ()
    source: Name | None = None


def layouts(
    shapes: Mapping[Name, tuple[int, ...] | None], book: Book, sides: Mapping[str, Side]
) -> tuple[list[Layout], list[str]]:
    """Plan the modules of the target.

    Args:
        shapes: module of the source to the shape of the weight it changes; None if it does not tell.
        book: names of the family.
        sides: component to the side of the target.

    Returns:
        The modules in the order of the source; then one sentence for each that cannot be made.
    """
    made: list[Layout] = []
    faults: list[str] = []
    done: set[tuple[str, Side, str]] = set()
    for name in shapes:
        wanted = sides[name.component]
        if name.side == wanted:
            made.append(Layout(name, source=name))
            continue
        found = book.words.group(f"{name.bare}.weight", name.side)
        if found is None:
            faults.append(f"{name.bare!r}: has no name there")
            continue
        link, group = found
        key = (name.component, name.side, group[0])
        if key not in done:
            done.add(key)
            names = [replace(name, bare=text.removesuffix(".weight")) for text in group]
            _translate(link, names, shapes, book, wanted, made, faults)
    return made, faults


def _translate(
    link: Link,
    names: Sequence[Name],
    shapes: Mapping[Name, tuple[int, ...] | None],
    book: Book,
    wanted: Side,
    made: list[Layout],
    faults: list[str],
) -> None:
    there = [name for name in names if name in shapes]
    if len(names) == len(link.side(wanted)) == 1 and link.change != "swap":
        only, shape = there[0], shapes[there[0]] or (1, 1)
        spec = {f"{only.bare}.weight": Spec(DTYPES["F32"], shape)}
        bare = next(iter(book.words.translate(spec, only.side)[0])).removesuffix(".weight")
        made.append(Layout(Name(only.component, wanted, bare), source=only))
        return
    unknown = [name.bare for name in there if not shapes[name]]
    if unknown:
        faults.append(
            f"{', '.join(map(repr, unknown))}: would have to be split or joined, which only plain "
            "LoRA (up and down) can be"
        )
        return
    filled = {name: _filled(i, name, names, shapes, link) for i, name in enumerate(names)}
    specs = {f"{name.bare}.weight": Spec(DTYPES["F32"], shape) for name, shape in filled.items()}
    found, _, misfits = book.words.translate(specs, names[0].side)
    faults += misfits
    of = {f"{name.bare}.weight": name for name in names}
    for text, arrangement in found.items():
        width = arrangement.spec.nbytes // arrangement.spec.shape[0]
        rows = tuple(
            Rows(
                of[piece.name] if of[piece.name] in shapes else None,
                piece.offset // width,
                piece.size // width,
            )
            for piece in arrangement.pieces
        )
        bare = text.removesuffix(".weight")
        made.append(Layout(Name(names[0].component, wanted, bare), rows))


def _filled(
    i: int,
    name: Name,
    names: Sequence[Name],
    shapes: Mapping[Name, tuple[int, ...] | None],
    link: Link,
) -> tuple[int, ...]:
    """Return the shape of a module; one that the file leaves out has the shape its neighbours tell."""
    shape = shapes.get(name)
    if shape:
        return shape
    near = next(found for other in names if (found := shapes.get(other)))
    if not link.rows:
        return near
    first = link.rows[0] or near[0]
    return (link.rows[i] or _FLUX_MLP * first, *near[1:])
