"""memcard pack: store checkpoints in little space."""

from __future__ import annotations

import click

from memcard.cli import _show


@click.command(
    epilog=_show.examples(
        "memcard pack",
        "memcard pack my-tune my-merge",
        "nice memcard pack --threads 1",
    )
)
@click.argument("refs", nargs=-1, metavar="[REF]...")
@click.option(
    "--threads",
    type=click.IntRange(1),
    help="That compress; default: one per processor, at most 4.",
)
@click.option("--no-recipes", is_flag=True, help="Do not look for casts, merges and LoRA bakes.")
@click.option("--keep-files", is_flag=True, help="Keep the library's own plain copies as well.")
@_show.json_option
def command(
    refs: tuple[str, ...], threads: int | None, no_recipes: bool, keep_files: bool, as_json: bool
) -> int:
    """Store checkpoints of the library in little space, bit for bit: REF, or all of them.

    A fine-tune is kept as its difference to the nearest checkpoint, a merge, a cast or a LoRA bake as its recipe.
    Everything is read back and compared before it counts. Only then the library's own plain copies go; files that
    are not the library's stay as they are. Stop it when you like: what was packed stays packed.
    """
    from memcard.jobs.library import Library

    with _show.progress() as progress:
        packed = Library().pack(
            *refs, threads=threads, recipes=not no_recipes, keep_files=keep_files, progress=progress
        )
    if as_json:
        _show.print_json(packed.to_dict())
        return 0
    rows = []
    for done in packed.done:
        size = _show.human_size(done.size)
        if done.skipped:
            rows.append([done.name, size, "", "", f"left as it is: {done.skipped}"])
        else:
            share = f"{done.stored / done.size:.1%}" if done.size else ""
            rows.append([done.name, size, _show.human_size(done.stored), share, done.how])
    click.echo(_show.table(rows, header=["name", "size", "packed", "", "how"]))
    freed = sum(done.freed for done in packed.done)
    click.echo(
        f"{_show.human_size(packed.size)} in {_show.human_size(packed.stored)}; "
        f"{_show.human_size(freed)} of plain copies removed"
    )
    return 0
