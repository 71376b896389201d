"""memcard merge: two or more checkpoints become one, with the recipe inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from memcard.cli import _show
from memcard.cli._types import Numbers


@click.command(
    epilog=_show.examples(
        "memcard merge weighted_average a.safetensors b.safetensors --weights 0.7,0.3 --out c.safetensors",
        "memcard merge weighted_average starter starter/stencil --out half.safetensors --dry-run",
    )
)
@click.argument("method")
@click.argument("refs", nargs=-1, required=True, metavar="REF...")
@click.option("--weights", type=Numbers(), help="One number per REF; default: all the same.")
@click.option("--base", help="The common ancestor, for methods that need one.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Set a parameter.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="File to write.")
@_show.force_option
@click.option("--dry-run", is_flag=True, help="Print the plan; write nothing.")
@_show.json_option
def command(
    method: str,
    refs: tuple[str, ...],
    weights: tuple[float, ...] | None,
    base: str | None,
    settings: tuple[str, ...],
    out: Path,
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Blend checkpoints into one.

    METHOD is the name of a merge method, such as weighted_average. All refusals come from the headers,
    before a byte is written; the merge then streams, so memory does not grow with the files. The recipe
    goes into the metadata of the result.
    """
    from memcard.jobs.merge import merge

    with _show.progress() as progress:
        result = merge(
            method,
            refs,
            base=base,
            out=out,
            weights=weights,
            overwrite=overwrite,
            dry_run=dry_run,
            progress=progress,
            **parameters(settings),
        )
    _show.print_made(result, as_json=as_json)
    return 0


def parameters(settings: tuple[str, ...]) -> dict[str, Any]:
    """Read ``KEY=VALUE`` pairs; a value that is JSON (a number, true, a list) is taken as such."""
    import json

    found: dict[str, Any] = {}
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals:
            raise click.UsageError(f"--set {text}: write it like --set key=value.")
        try:
            found[key] = json.loads(value)
        except json.JSONDecodeError:
            found[key] = value
    return found
