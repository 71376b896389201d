"""memcard tree: parents and children of a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from memcard.cli import _show

if TYPE_CHECKING:
    from memcard.jobs.tree import Edge, Node, Tree

_DEEP = 40  # a longer line of descent is cut


@click.command(
    epilog=_show.examples(
        "memcard tree my-mix",
        "memcard tree my-mix --svg family.svg",
        "memcard tree sdxl-base --json | jq '.edges[].child'",
    )
)
@click.argument("ref")
@click.option("--svg", type=click.Path(path_type=Path), help="Draw a picture into this file.")
@_show.force_option
@_show.json_option
def command(ref: str, svg: Path | None, overwrite: bool, as_json: bool) -> int:
    """Draw what a checkpoint was made of, and what was made of it.

    From what files say of their parents, what they are deltas of, and what `memcard pack` found out. REF is a name of
    the library.
    """
    from memcard.jobs.library import Library

    found = Library().tree(ref)
    if svg is not None:
        _draw(found, svg, overwrite=overwrite)
    if as_json:
        _show.print_json(found.to_dict())
    else:
        click.echo(_show.clean("\n".join(_lines(found))))
    for note in found.notes:
        _show.advise(f"note: {note}")
    return 0


def _draw(tree: Tree, path: Path, *, overwrite: bool) -> None:
    from memcard.core.atomic import replacing
    from memcard.jobs._tree_picture import svg

    if path.exists() and not overwrite:
        raise click.UsageError(f"{path}: is there already. Choose another name, or use --force.")
    with replacing(path) as file:
        file.write(svg(tree).encode("utf-8", "replace"))
    _show.advise(f"picture: {path}")


def _lines(tree: Tree) -> Iterator[str]:
    root = tree.nodes[tree.root]
    yield _said(root)
    if root.made:
        yield f"= {root.made}"
    if above := tree.parents(tree.root):
        yield "made of"
        yield from _branch(tree, above, tree.parents, lambda edge: edge.parent, "", {tree.root})
    if below := tree.children(tree.root):
        yield "used in"
        yield from _branch(tree, below, tree.children, lambda edge: edge.child, "", {tree.root})
    if not above and not below:
        yield "nothing is known of parents or children"


def _branch(
    tree: Tree,
    edges: list[Edge],
    further: Callable[[str], list[Edge]],
    end: Callable[[Edge], str],
    indent: str,
    seen: set[str],
) -> Iterator[str]:
    for i, edge in enumerate(edges):
        last = i == len(edges) - 1
        here = end(edge)
        again = here in seen
        seen.add(here)
        more = " …" if again and further(here) else ""
        yield f"{indent}{'└── ' if last else '├── '}{_said(tree.nodes[here])}  [{edge.how}]{more}"
        below = f"{indent}{'    ' if last else '│   '}"
        if not again and len(below) < 4 * _DEEP:
            yield from _branch(tree, further(here), further, end, below, seen)


def _said(node: Node) -> str:
    if not node.known:
        return f"{node.name}  (not in the library)"
    facts = [node.architecture or "", node.kind, _show.human_size(node.size)]
    return f"{node.name}  ({', '.join(fact for fact in facts if fact)})"
