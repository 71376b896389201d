"""memcard pick: which checkpoint for a purpose."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from memcard.cli import _show

if TYPE_CHECKING:
    from memcard.jobs.pick import Candidate, Ranking

_SHOWN = 10
_SILENT = 5  # names of which nothing is known that are listed


@click.command(
    epilog=_show.examples(
        "memcard pick portrait photos",
        "memcard pick neon glow --json | jq '.candidates[0]'",
        "memcard pick 'black stencil of a cat' --measure 4",
        "memcard pick watercolor --kind lora --family sdxl",
    )
)
@click.argument("purpose", nargs=-1, required=True)
@click.option("--kind", help="Rank files of this kind, such as lora. Default: checkpoints.")
@click.option("--family", help="Only of this family: sd1, sdxl, …")
@click.option(
    "--measure",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Make N pictures with each, and rank by how clearly they show it.",
)
@click.option("--most", type=click.IntRange(min=1), default=5, show_default=True,
              help="Measure so many at most, the likeliest.")  # fmt: skip
@click.option("--limit", type=click.IntRange(min=1), default=_SHOWN, show_default=True,
              help="Show so many.")  # fmt: skip
@_show.json_option
def command(
    purpose: tuple[str, ...],
    kind: str | None,
    family: str | None,
    measure: int,
    most: int,
    limit: int,
    as_json: bool,
) -> int:
    """Rank the checkpoints there are for a purpose, and say why.

    Goes by names, titles, tags, trigger words, descriptions and your own remarks, of the library and of the starter.
    What says nothing about itself is not ranked: whether it suits is unknown. Ends with 1 if nothing fits.
    """
    from memcard.jobs.pick import pick

    with _show.progress() as progress:
        found = pick(
            " ".join(purpose),
            kind=kind,
            family=family,
            measure=measure,
            most=most,
            progress=progress,
        )
    if as_json:
        _show.print_json(found.to_dict())
    else:
        _print(found, limit)
    return 0 if found.candidates else 1


def _print(found: Ranking, limit: int) -> None:
    if found.candidates:
        rows = [_row(one, found.measured) for one in found.candidates[:limit]]
        header = ["", "checkpoint", *(["adherence"] if found.measured else []), "why"]
        click.echo(_show.table(rows, header=header))
    else:
        _show.advise(f"Nothing says that it is for {found.purpose!r}.")
    if len(found.candidates) > limit:
        _show.advise(f"{limit} of {len(found.candidates)}; --limit shows more.")
    for note in found.notes:
        _show.advise(f"note: {note}")
    if found.silent:
        more = ", …" if len(found.silent) > _SILENT else ""
        _show.advise(
            f"unknown: {_show.counted(len(found.silent), 'checkpoint')} of which nothing is said "
            f"({', '.join(found.silent[:_SILENT])}{more}); memcard card REF --set 'purpose=…' says it."
        )


def _row(one: Candidate, measured: bool) -> list[str]:
    row = [f"{one.rank}.", one.ref]
    if measured:
        if one.adherence is None:
            row.append("not tried" if one.fault is None else "failed")
        else:
            ends = f" ({one.spread[0]:+.2f} to {one.spread[1]:+.2f})" if one.spread else ""
            row.append(f"{one.adherence:+.2f}{ends}")
    also = f" Also called {', '.join(one.also)}." if one.also else ""
    return [*row, " ".join(one.reasons) + also]
