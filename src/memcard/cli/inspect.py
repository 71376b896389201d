"""memcard inspect: what a file is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from memcard.cli import _show

if TYPE_CHECKING:
    from memcard.core.report import Report

_MARKS: Mapping[str, tuple[str, str]] = {
    "ok": ("ok", "green"),
    "unsafe": ("UNSAFE", "red"),
    "corrupt": ("CORRUPT", "red"),
    "unsupported": ("unsupported", "yellow"),
}


@click.command(
    epilog=_show.examples(
        "memcard inspect model.safetensors",
        "memcard inspect downloads/*.ckpt --digests",
        "memcard inspect model.ckpt --json | jq .verdict",
    )
)
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--digests", is_flag=True, help="Also read the whole file for its hashes.")
@click.option("--tensors", is_flag=True, help="List every tensor.")
@_show.json_option
def command(paths: tuple[str, ...], digests: bool, tensors: bool, as_json: bool) -> int:
    """Say what a file is, on what evidence, and whether it is safe.

    Headers only; nothing inside a file is run. The exit code is the worst verdict: 0 ok, 3 unsafe, 4 corrupt,
    5 unsupported. With --json one PATH prints an object, several print a list.
    """
    from memcard.jobs.inspect import inspect

    with _show.progress() as progress:
        reports = [inspect(path, digests=digests, progress=progress) for path in paths]
    if as_json:
        facts = [report.to_dict() for report in reports]
        _show.print_json(facts[0] if len(facts) == 1 else facts)
    else:
        for i, report in enumerate(reports):
            click.echo(nl=i > 0)
            _print(report, tensors=tensors)
    return worst(reports)


def worst(reports: list[Report]) -> int:
    """Return the exit code of the gravest verdict: unsafe before corrupt before unsupported."""
    codes = [report.exit_code for report in reports if report.exit_code]
    return min(codes, default=0)


def _print(report: Report, *, tensors: bool) -> None:
    mark, color = _MARKS[report.verdict]
    click.echo(_show.clean(f"{report.path}: ") + click.style(mark, fg=color, bold=True))
    dtypes = ", ".join(f"{d} {_show.human_size(n)}" for d, n in report.dtypes.items())
    parts = [f"{part} ({_count(n)} parameters)" for part, n in report.components.items()]
    _show.print_facts(
        {
            "format": report.format,
            "size": _show.human_size(report.size),
            "is": report.architecture,
            "because": list(report.evidence),
            "holds": parts,
            "tensors": f"{len(report.tensors)} ({dtypes})" if report.tensors else None,
            "title": report.metadata.get("modelspec.title"),
            "license": report.metadata.get("modelspec.license"),
            **report.digests,
            "why": list(report.faults),
            "note": list(report.notes),
        }
    )
    if tensors:
        rows = [
            [name, str(s.dtype), "x".join(map(str, s.shape))] for name, s in report.tensors.items()
        ]
        click.echo(_show.table(rows, header=["tensor", "dtype", "shape"]))


def _count(n: int) -> str:
    return f"{n / 1e6:.3g} M" if n >= 1e5 else str(n)
