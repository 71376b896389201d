"""memcard diff: what differs between two checkpoints, and by how much."""

from __future__ import annotations

from pathlib import Path

import click

from memcard.cli import _show


@click.command(
    epilog=_show.examples(
        "memcard diff base.safetensors tune.safetensors",
        "memcard diff a.ckpt b.safetensors --png moved.png",
        "memcard diff a.safetensors b.gguf --json | jq '.changed[].name'",
        "memcard diff starter starter/neon --tensors 10",
    )
)
@click.argument("a")
@click.argument("b")
@click.option("--keys", is_flag=True, help="Compare names, shapes and dtypes only; reads headers.")
@click.option("--tensors", type=click.IntRange(0), default=0, metavar="N",
              help="List the N tensors that moved furthest.")  # fmt: skip
@click.option("--png", type=click.Path(path_type=Path), help="Draw a heat map of the blocks.")
@_show.json_option
def command(a: str, b: str, keys: bool, tensors: int, png: Path | None, as_json: bool) -> int:
    """Show what differs between two checkpoints, and how far the weights of each block moved.

    A and B may be of different formats, dtypes and dialects, files or folders. The relative norm of a block
    is ||B - A|| / ||A||. Like diff(1), it ends with 0 if all tensors are equal bit for bit, and with 1 if not.
    """
    from memcard.cli._diff_text import print_diff
    from memcard.jobs.diff import check_picture, diff, draw

    if png is not None:
        check_picture(png, keys=keys)
    with _show.progress() as progress:
        found = diff(a, b, keys=keys, progress=progress)
    if as_json:
        _show.print_json(found.to_dict())
    else:
        print_diff(found, tensors=tensors)
    if png is not None:
        draw(found, png)
        _show.advise(f"heat map: {png}")
    return 0 if found.equal else 1
