"""memcard demo: the tour."""

from __future__ import annotations

from pathlib import Path

import click

from memcard.cli import _show


@click.command(epilog=_show.examples("memcard demo", "memcard demo --out tour --seed 7"))
@click.option(
    "--out", type=click.Path(path_type=Path), default="memcard-demo", show_default=True,
    help="Folder for the sheet, the merged checkpoint and the page.",
)  # fmt: skip
@click.option("--seed", type=int, default=1, show_default=True, help="One seed for every picture.")
@_show.json_option
def command(out: Path, seed: int, as_json: bool) -> int:
    """Take the tour on the built-in starter model.

    Inspects, merges and generates with the checkpoints that ship in the package; writes sheet.png, the merged
    checkpoint and index.html. Needs no network and about a minute on two cores.
    """
    from memcard.jobs.demo import demo

    with _show.progress() as progress:
        result = demo(out, seed=seed, progress=progress)
    if as_json:
        _show.print_json(result.to_dict())
        return 0
    header = list(result.checkpoints[0])
    click.echo(_show.table([list(row.values()) for row in result.checkpoints], header=header))
    click.echo(f"\n{result.sheet}\n{result.page}\n{result.merged}")
    _show.advise(
        f"\n{result.pictures} pictures in {result.seconds:.0f} s. Open {result.page} in a browser. Next:\n"
        '  memcard generate "a red apple" -n 4\n  memcard --help'
    )
    return 0
