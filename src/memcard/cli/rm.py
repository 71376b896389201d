"""memcard rm: take names out of the library."""

from __future__ import annotations

import click

from memcard.cli import _show


@click.command(
    epilog=_show.examples(
        "memcard rm old-tune", "memcard rm test-1 test-2 --dry-run", "memcard undo"
    )
)
@click.argument("refs", nargs=-1, required=True, metavar="REF...")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@_show.json_option
def command(refs: tuple[str, ...], dry_run: bool, as_json: bool) -> int:
    """Take names out of the library; `memcard undo` puts them back.

    Files that are not the library's stay where they are. Files of the library that no other name needs are
    removed by `memcard gc`, 30 days later.
    """
    from memcard.jobs.library import Library

    done = Library().rm(*refs, dry_run=dry_run)
    if as_json:
        _show.print_json(done.to_dict())
        return 0
    said = "would be taken" if dry_run else "taken"
    click.echo(_show.clean(f"{said} out of the library: {', '.join(done.names)}"))
    for path in done.stays:
        _show.advise(f"stays where it is: {path}")
    if done.nbytes:
        size = _show.human_size(done.nbytes)
        _show.advise(f"{size} of the library's own files will be freed by `memcard gc` in 30 days.")
    if done.entry is not None:
        _show.advise(f"to have it back: memcard undo {done.entry}")
    return 0
