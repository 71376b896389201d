"""memcard export: a stored checkpoint as the very file it was."""

from __future__ import annotations

import click

from memcard.cli import _show


@click.command(
    epilog=_show.examples(
        "memcard export sdxl-base copy.safetensors",
        "memcard export my-tune@6ce01613 old.safetensors",
        "memcard export 31e35c80fc ~/ComfyUI/models/checkpoints",
    )
)
@click.argument("ref")
@click.argument("out")
@_show.force_option
@_show.json_option
def command(ref: str, out: str, overwrite: bool, as_json: bool) -> int:
    """Write a stored checkpoint as the very file it was when it was added.

    What is written has the SHA-256 that was noted then, or nothing is written. If OUT is a folder the file goes
    there under the name it was added with.
    """
    from memcard.jobs.library import Library

    with _show.progress() as progress:
        done = Library().export(ref, out, overwrite=overwrite, progress=progress)
    if as_json:
        _show.print_json(done.to_dict())
    else:
        size = _show.human_size(done.size)
        click.echo(_show.clean(f"{done.path}: {size}, SHA-256 {done.sha256}, as it was added."))
    return 0
