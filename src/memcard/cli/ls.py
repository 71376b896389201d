"""memcard ls: what the library has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from memcard.cli import _show

if TYPE_CHECKING:
    from memcard.jobs.ls import Entry
    from memcard.store.index_rows import Sort

_SORTS = ("name", "added", "size", "kind", "family")  # tests compare it with the index


@click.command(
    epilog=_show.examples(
        "memcard ls",
        "memcard ls portrait film",
        "memcard ls --kind lora --tag style",
        "memcard ls --sort size --reverse",
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
@click.option("--look/--no-look", default=None,
              help="See where each is, or do not; by itself for up to 500 names.")  # fmt: skip
@_show.json_option
def command(
    query: tuple[str, ...],
    kind: str | None,
    family: str | None,
    tags: tuple[str, ...],
    sort: Sort | None,
    reverse: bool,
    look: bool | None,
    as_json: bool,
) -> int:
    """List the checkpoints of the library.

    With words, those that have words beginning so in their name or on their card, all of them. Ends with 1 if there
    is none.
    """
    from memcard.jobs.library import Library

    found = Library().ls(
        " ".join(query),
        kind=kind,
        family=family,
        tags=tags,
        sort=sort,
        descending=reverse,
        look=look,
    )
    if as_json:
        _show.print_json([entry.to_dict() for entry in found.entries])
    elif found.entries:
        rows = [
            [
                *(e.name, e.kind, e.architecture or "", _show.human_size(e.size)),
                *(e.sha256[:12], e.added[:10], _where(e)),
            ]
            for e in found.entries
        ]
        header = ["name", "kind", "family", "size", "sha256", "added", "where"]
        click.echo(_show.table(rows, header=header))
    for fault in found.faults:
        _show.advise(fault)
    return 0 if found.entries else 1


def _where(entry: Entry) -> str:
    if entry.stored is None:
        return entry.state or ""
    share = f"{100 * entry.stored / max(entry.size, 1):.2g} %"
    return f"packed, {share}" if entry.state == "packed" else f"at hand; packed, {share}"
