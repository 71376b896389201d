"""memcard undo: put back what was put away."""

from __future__ import annotations

import click

from memcard.cli import _show


@click.command(
    epilog=_show.examples(
        "memcard undo", "memcard undo --list", "memcard undo 20261122T094000-5f0c2a"
    )
)
@click.argument("entry", required=False)
@click.option("--list", "as_list", is_flag=True, help="List what can be put back.")
@_show.json_option
def command(entry: str | None, as_list: bool, as_json: bool) -> int:
    """Put back what `memcard rm` or `memcard gc` put away last, or the entry of this name."""
    from memcard.jobs.library import Library

    library = Library()
    if not as_list:
        done = library.undo(entry)
        if as_json:
            _show.print_json(done.to_dict())
        else:
            click.echo(_show.clean(f"put back: {done.title} ({done.verb}, {done.at})"))
        return 0
    found = library.trashed()
    if as_json:
        _show.print_json([e.to_dict() for e in found])
    elif found:
        rows = [[e.entry, e.verb, e.title, _show.human_size(e.nbytes)] for e in found]
        click.echo(_show.table(rows, header=["entry", "by", "what", "size"]))
    return 0 if found else 1
