"""memcard inspect: what a file is."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from memcard.cli import _card, _show

if TYPE_CHECKING:
    from memcard.core.report import Report

_CARDS = 3  # more files than this, or any folder, make a table


@click.command(
    epilog=_show.examples(
        "memcard inspect model.safetensors",
        "memcard inspect ~/models",
        "memcard inspect downloads/*.ckpt --digests",
        "memcard inspect model.ckpt --json | jq .verdict",
    )
)
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--digests", is_flag=True, help="Also read the whole file for its hashes.")
@click.option("--tensors", is_flag=True, help="List every tensor.")
@click.option("--long", "long", is_flag=True, help="A card for every file, however many.")
@click.option(
    "--salvage", is_flag=True, help="List the tensors of an unsafe file too. Runs nothing either."
)
@click.option("--threads", type=click.IntRange(1, 64), help="Files looked at at once.")
@_show.json_option
def command(
    paths: tuple[str, ...],
    digests: bool,
    tensors: bool,
    long: bool,
    salvage: bool,
    threads: int | None,
    as_json: bool,
) -> int:
    """Say what a file is, on what evidence, and whether it is safe.

    Headers only; nothing inside a file is run. PATH is a file, a diffusers folder, or any folder: then every
    checkpoint below it. The exit code is the worst verdict: 0 ok, 3 unsafe, 4 corrupt, 5 unsupported; 1 if a
    folder holds none. With --json one PATH that is a checkpoint prints an object, everything else a list.
    """
    from memcard.jobs.inspect import inspect_all, is_one

    with _show.progress() as progress:
        reports = inspect_all(paths, digests, salvage=salvage, threads=threads, progress=progress)
    single = len(paths) == 1 and is_one(paths[0])
    if as_json:
        facts = [report.to_dict() for report in reports]
        _show.print_json(facts[0] if single else facts)
    elif long or tensors or (len(reports) <= _CARDS and reports):
        _cards(reports, tensors=tensors)
    else:
        _table(reports)
    return worst(reports) if reports else 1


def worst(reports: list[Report]) -> int:
    """Return the exit code of the gravest verdict: unsafe before corrupt before unsupported."""
    codes = [report.exit_code for report in reports if report.exit_code]
    return min(codes, default=0)


def _cards(reports: list[Report], *, tensors: bool) -> None:
    for i, report in enumerate(reports):
        click.echo(nl=i > 0)
        if sys.stdout.isatty():
            _card.framed(report)
        else:
            _card.plain(report)
        if tensors:
            rows = [
                [name, str(s.dtype), "x".join(map(str, s.shape))]
                for name, s in report.tensors.items()
            ]
            click.echo(_show.table(rows, header=["tensor", "dtype", "shape"]))


def _table(reports: list[Report]) -> None:
    if reports:
        header = ["verdict", "is", "dtypes", "size", "path"]
        click.echo(_show.table(_card.summary(reports), header=header))
    for report in reports:
        for fault in report.faults[:1]:
            click.echo(_show.clean(f"\n{report.verdict}: {fault}"))
    _show.advise(_card.totals(reports))
