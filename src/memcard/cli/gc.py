"""memcard gc: tidy the library up."""

from __future__ import annotations

import click

from memcard.cli import _show


@click.command(epilog=_show.examples("memcard gc --dry-run", "memcard gc", "memcard gc --days 0"))
@click.option("--days", type=click.FloatRange(0), default=30.0, show_default=True,
              help="How long the trash keeps things; 0 empties it now.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@_show.json_option
def command(days: float, dry_run: bool, as_json: bool) -> int:
    """Put away what no name leads to, and empty the trash of what has been there for long.

    Only the library's own files are meant. What is put away now is removed for good by a later gc, when it has been
    in the trash for --days; until then `memcard undo` brings it back.
    """
    from memcard.jobs.library import Library

    done = Library().gc(days=days, dry_run=dry_run)
    if as_json:
        _show.print_json(done.to_dict())
        return 0
    will = "would be " if dry_run else ""
    count, size = len(done.put_away), _show.human_size(done.nbytes)
    click.echo(f"{will}put into the trash: {_show.counted(count, 'file')}, {size}")
    if done.rewritten:
        packs = _show.counted(len(done.rewritten), "pack")
        click.echo(f"{will}written anew without what is dead: {packs}")
    gone = _show.counted(len(done.removed), "entry").replace("entrys", "entries")
    click.echo(f"{will}removed from the trash for good: {gone}, {_show.human_size(done.freed)}")
    if done.busy:
        _show.advise(
            "Another memcard is at work on this library: its packs, and what is less than an hour old, were "
            "left alone. Run gc again when it is done."
        )
    return 0
