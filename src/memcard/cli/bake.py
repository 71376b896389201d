"""memcard bake: a recipe becomes a checkpoint."""

from __future__ import annotations

from pathlib import Path

import click

from memcard.cli import _show


@click.command(
    epilog=_show.examples(
        "memcard bake merge.yaml --out merged.safetensors",
        "memcard bake merged.safetensors --out again.safetensors",
        "memcard bake mergekit.yml --out merged.safetensors --report merged.png",
        "memcard bake merge.mecha --print yaml > merge.yaml",
    )
)
@click.argument("recipe")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="File to write.")
@_show.force_option
@click.option("--dry-run", is_flag=True, help="Print the plan; write nothing.")
@click.option(
    "--print",
    "form",
    type=click.Choice(["yaml", "json"]),
    help="Print the recipe as memcard understands it, in place of baking.",
)
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    metavar="PNG",
    help="Draw how far the result is from each of its parents.",
)
@_show.json_option
def command(
    recipe: str,
    out: Path | None,
    overwrite: bool,
    dry_run: bool,
    form: str | None,
    report: Path | None,
    as_json: bool,
) -> int:
    """Compute a recipe and write the checkpoint.

    RECIPE is our JSON or YAML, a configuration of mergekit, a .mecha of sd-mecha, or a checkpoint with a
    recipe inside: of memcard, A1111 or supermerger. The same recipe and the same inputs give the same bytes.
    """
    from memcard.jobs.bake import bake
    from memcard.jobs.recipes import parents_of, write_recipe

    if form is not None:
        click.echo(write_recipe(recipe, "yaml" if form == "yaml" else "json"), nl=False)
        return 0
    if out is None:
        raise click.UsageError("Missing option '--out'.")
    if report is not None:
        from memcard.jobs.merge_report import check_report

        check_report(report, dry_run=dry_run)
    with _show.progress() as progress:
        result = bake(recipe, out, overwrite=overwrite, dry_run=dry_run, progress=progress)
    _show.print_made(result, as_json=as_json)
    if report is not None:
        from memcard.cli._report import write_report

        write_report(out, parents_of(recipe), report, quiet=as_json)
    return 0
