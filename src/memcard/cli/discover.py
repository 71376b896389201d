"""memcard discover: what a checkpoint was made from."""

from __future__ import annotations

from pathlib import Path

import click

from memcard.cli import _show


@click.command(
    epilog=_show.examples(
        "memcard discover mystery.safetensors models/*.safetensors",
        "memcard discover mystery.safetensors a.safetensors b.safetensors style_lora.safetensors",
        "memcard discover mix.safetensors a.safetensors b.safetensors --recipe mix.json",
    )
)
@click.argument("checkpoint")
@click.argument("candidates", nargs=-1, required=True)
@click.option("--quick", is_flag=True, help="Look at samples only; do not compute every value.")
@click.option("--recipe", type=click.Path(path_type=Path), help="Write the recipe to this file.")
@_show.json_option
def command(
    checkpoint: str, candidates: tuple[str, ...], quick: bool, recipe: Path | None, as_json: bool
) -> int:
    """Find out what a checkpoint was made from: a cast, a merge, a LoRA bake of the CANDIDATES.

    Weights are measured, then tried in the arithmetic of memcard, of common scripts and of mergekit until
    the bits agree. Ends with 1 if nothing was found.
    """
    from memcard.jobs.discover import discover, save_recipe

    with _show.progress() as progress:
        found = discover(checkpoint, candidates, full=not quick, progress=progress)
    if found is None:
        if as_json:
            _show.print_json(None)
        else:
            click.echo(
                "None of the candidates, and no weighted sum of them, gives this checkpoint."
            )
        return 1
    if recipe is not None:
        save_recipe(found, recipe)
    if as_json:
        _show.print_json(found.to_dict())
        return 0
    click.echo(f"{found.title}{found.verdict}")
    for name, count in found.worst:
        click.echo(f"  {count:>9,} different in {_show.clean(name)}")
    if found.missing:
        few = ", ".join(_show.clean(name) for name in found.missing[:5])
        click.echo(f"Not in any candidate: {len(found.missing)} tensors ({few})")
    if recipe is not None:
        _show.advise(f"recipe: {recipe}; memcard bake {recipe} --out FILE makes it again")
    return 0
