"""memcard repair: mend what the library keeps."""

from __future__ import annotations

import click

from memcard.cli import _show


@click.command(
    epilog=_show.examples("memcard repair --dry-run", "memcard repair", "memcard repair sdxl-base")
)
@click.argument("refs", nargs=-1, metavar="[REF]...")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@_show.json_option
def command(refs: tuple[str, ...], dry_run: bool, as_json: bool) -> int:
    """Mend what the library keeps, from other copies of the same values.

    Reads everything. What is damaged is taken from adopted files, other files and packs of the library, or computed
    by a recipe; each value must have its digest. What was damaged goes into the trash when its replacement was read
    back. Files that are not the library's are only read. Ends with 8 if something is still damaged.
    """
    from memcard.jobs.library import Library

    with _show.progress() as progress:
        done = Library().repair(*refs, dry_run=dry_run, progress=progress)
    if as_json:
        _show.print_json(done.to_dict())
        return 0 if done.ok else 8
    said = "would be mended" if dry_run else "mended"
    for one in done.mended:
        size = f", {_show.human_size(one.nbytes)}" if one.nbytes else ""
        click.echo(_show.clean(f"{said}: {one.what}: {one.how}{size}"))
    if done.exact:
        click.echo(_show.clean(f"read back whole, and exact: {', '.join(done.exact)}"))
    for fault in done.faults:
        click.echo(_show.clean(fault))
    for name in done.lost:
        click.echo(_show.clean(f"{name}: no sound copy is left. Add one: memcard add FILE."))
    if not done.mended and done.ok:
        click.echo("nothing is damaged.")
    for entry in done.entries:
        _show.advise(f"what was damaged is in the trash: {entry}")
    return 0 if done.ok else 8
