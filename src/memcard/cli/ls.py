"""memcard ls: what the library has."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from memcard.cli import _show

if TYPE_CHECKING:
    from memcard.jobs.ls import Entry
    from memcard.store.index_rows import Sort

_PAGE = 200  # names on a terminal; where each is costs a moment a name
_SORTS = ("name", "added", "size", "kind", "family")  # tests compare it with the index


@click.command(
    epilog=_show.examples(
        "memcard ls",
        "memcard ls portrait film",
        "memcard ls --kind lora --tag style",
        "memcard ls --sort size --reverse --limit 20",
        "memcard ls --json | jq '.[].name'",
    )
)
@click.argument("query", nargs=-1)
@click.option("--kind", help="Only of this kind: checkpoint, lora, vae, …")
@click.option("--family", help="Only of this family: sd1, sdxl, …")
@click.option("--tag", "tags", multiple=True, help="Only with this tag; may be given again.")
@click.option(
    "--sort", type=click.Choice(_SORTS), help="In this order; with words the best hits come first."
)
@click.option("--reverse", is_flag=True, help="The largest or latest first.")
@click.option("--limit", type=click.IntRange(1), help=f"At most so many; on a terminal {_PAGE}.")
@click.option("--all", "all_of_them", is_flag=True, help="All of them, also on a terminal.")
@click.option("--look/--no-look", default=None,
              help="See where each is, or do not; by itself where up to 500 are listed.")  # fmt: skip
@_show.json_option
def command(
    query: tuple[str, ...],
    kind: str | None,
    family: str | None,
    tags: tuple[str, ...],
    sort: Sort | None,
    reverse: bool,
    limit: int | None,
    all_of_them: bool,
    look: bool | None,
    as_json: bool,
) -> int:
    """List the checkpoints of the library.

    With words, those that have words beginning so in their name or on their card, all of them. On a terminal a long
    list is cut and says so, and the saves of a training are one line (--kind training lists them); into a pipe or a
    file, and with --all or --json, it is whole. Ends with 1 if there is none.
    """
    from memcard.jobs.library import Library

    on_terminal = sys.stdout.isatty() and not as_json
    if all_of_them:
        limit = None
    elif limit is None and on_terminal:
        limit = _PAGE
    found = Library().ls(
        " ".join(query),
        kind=kind,
        family=family,
        tags=tags,
        sort=sort,
        descending=reverse,
        look=look,
        limit=limit,
        grouped=on_terminal and not all_of_them,
    )
    if as_json:
        _show.print_json([entry.to_dict() for entry in found.entries])
    elif found.entries:
        rows = [
            [
                *(_name(e), e.kind, e.architecture or "", _show.human_size(e.size)),
                *(e.sha256[:12], e.added[:10], _where(e)),
            ]
            for e in found.entries
        ]
        header = ["name", "kind", "family", "size", "sha256", "added", "where"]
        click.echo(_show.table(rows, header=header))
    if found.total > len(found.entries):
        _show.advise(f"{len(found.entries):,} of {found.total:,}; --all lists the others too.")
    for fault in found.faults:
        _show.advise(fault)
    return 0 if found.entries else 1


def _name(entry: Entry) -> str:
    return f"{entry.name} ({entry.saves} saves)" if entry.saves else entry.name


def _where(entry: Entry) -> str:
    if entry.stored is None:
        return entry.state or ""
    share = f"{100 * entry.stored / max(entry.size, 1):.2g} %"
    return f"packed, {share}" if entry.state == "packed" else f"at hand; packed, {share}"
