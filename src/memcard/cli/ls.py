"""memcard ls: what the library has."""

from __future__ import annotations

import click

from memcard.cli import _show


@click.command(
    epilog=_show.examples(
        "memcard ls",
        "memcard ls lora",
        "memcard ls sdxl merge",
        "memcard ls --json | jq '.[].name'",
    )
)
@click.argument("query", nargs=-1)
@_show.json_option
def command(query: tuple[str, ...], as_json: bool) -> int:
    """List the checkpoints of the library.

    With words, those that have them all in their name, kind, family or format. Ends with 1 if there is none.
    """
    from memcard.jobs.library import Library

    found = Library().ls(" ".join(query))
    if as_json:
        _show.print_json([entry.to_dict() for entry in found.entries])
    elif found.entries:
        rows = [
            [
                *(e.name, e.kind, e.architecture or "", _show.human_size(e.size)),
                *(e.sha256[:12], e.added[:10], "" if e.at_hand else "not at hand"),
            ]
            for e in found.entries
        ]
        header = ["name", "kind", "family", "size", "sha256", "added", ""]
        click.echo(_show.table(rows, header=header))
    for fault in found.faults:
        _show.advise(fault)
    return 0 if found.entries else 1
