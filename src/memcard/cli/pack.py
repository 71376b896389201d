"""memcard pack: store checkpoints in little space."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from memcard.cli import _show

if TYPE_CHECKING:
    from memcard.jobs.pack import PackedAll


@click.command(
    epilog=_show.examples(
        "memcard pack",
        "memcard pack my-tune my-merge",
        "memcard pack --dry-run",
        "nice memcard pack --threads 1",
    )
)
@click.argument("refs", nargs=-1, metavar="[REF]...")
@click.option(
    "--threads",
    type=click.IntRange(1),
    help="That compress; default: one per processor, at most 2.",
)
@click.option("--no-recipes", is_flag=True, help="Do not look for casts, merges and LoRA bakes.")
@click.option("--keep-files", is_flag=True, help="Keep the library's own plain copies as well.")
@click.option(
    "--replace-originals",
    is_flag=True,
    help="Put your own files into the library's trash too, once they are packed and read back.",
)
@click.option("--dry-run", is_flag=True, help="Only estimate what each would take, and how.")
@_show.json_option
def command(
    refs: tuple[str, ...],
    threads: int | None,
    no_recipes: bool,
    keep_files: bool,
    replace_originals: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Store checkpoints of the library in little space, bit for bit: REF, or all of them.

    A fine-tune is kept as its difference to the nearest checkpoint, a merge, a cast or a LoRA bake as its recipe.
    Everything is read back and compared before it counts. Only then the library's own plain copies go; files that
    are not the library's stay as they are; with --replace-originals they go to the library's trash (`memcard undo`
    takes them out again), unless they are reached through a link. Stop it when you like: what was packed stays packed.
    """
    from memcard.jobs.library import Library

    with _show.progress() as progress:
        packed = Library().pack(
            *refs,
            threads=threads,
            recipes=not no_recipes,
            keep_files=keep_files,
            replace_originals=replace_originals,
            dry_run=dry_run,
            progress=progress,
        )
    if as_json:
        _show.print_json(packed.to_dict())
    else:
        _print(packed)
    return 0


def _print(packed: PackedAll) -> None:
    rows = []
    for done in packed.done:
        size = _show.human_size(done.size)
        if done.skipped:
            rows.append([done.name, size, "", "", f"left as it is: {done.skipped}"])
        else:
            share = f"{done.stored / done.size:.1%}" if done.size else ""
            rows.append([done.name, size, _show.human_size(done.stored), share, done.how])
    click.echo(_show.table(rows, header=["name", "size", "packed", "", "how"]))
    whole = f"{_show.human_size(packed.size)} in {_show.human_size(packed.stored)}"
    if packed.dry_run:
        click.echo(f"about {whole}")
        _show.advise(
            "dry run: nothing was packed. Fine-tunes and saves of a training may take less than that: how they were "
            "trained is looked for only when they are packed."
        )
        return
    freed = sum(done.freed for done in packed.done)
    click.echo(f"{whole}; {_show.human_size(freed)} of plain copies removed")
    for path in (path for done in packed.done for path in done.replaced):
        click.echo(_show.clean(f"in the library's trash: {path}"))
