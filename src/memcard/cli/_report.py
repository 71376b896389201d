"""A merge report on a terminal: per block, how far the result is from each parent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from memcard.cli import _show
from memcard.cli._diff_text import percent

if TYPE_CHECKING:
    from memcard.jobs._report_rows import MergeReport


def write_report(out: Path, parents: Sequence[str | Path], png: Path, *, quiet: bool) -> None:
    """Compare the result with its parents, draw the picture and, unless ``quiet``, print the table."""
    from memcard.jobs.merge_report import draw_report, merge_report

    with _show.progress() as progress:
        found = merge_report(out, parents, progress=progress)
    draw_report(found, png)
    if not quiet:
        print_report(found)
    _show.advise(f"report: {png}")


def print_report(report: MergeReport) -> None:
    """Print one line for every block: the relative norm of the way from each parent."""
    from memcard.jobs._report_rows import letter, short

    click.echo()
    for i, parent in enumerate(report.parents):
        click.echo(_show.clean(f"{letter(i)}  {short(parent)}"))
    rows = [
        [
            row.component if row.block is None else f"  {row.block}",
            *(
                "" if d is None else "equal" if d.same else percent(d.relative)
                for d in row.distances
            ),
        ]
        for row in report.shown
    ]
    head = ["far from", *(letter(i) for i in range(len(report.parents)))]
    click.echo("\n" + _show.table(rows, header=head))
