"""memcard add: take checkpoints into the library."""

from __future__ import annotations

import click

from memcard.cli import _show


@click.command(
    epilog=_show.examples(
        "memcard add model.safetensors",
        "memcard add ~/models/sdxl --name sdxl-base",
        "memcard add download.ckpt --move",
        "memcard add run/last.safetensors --name my-tune --update",
    )
)
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--name", help="What to call it; default: the file's name without suffix.")
@click.option("--in-place", "how", flag_value="in-place", default="in-place",
              help="Leave the file where it is (default).")  # fmt: skip
@click.option("--link", "how", flag_value="link",
              help="Also give the library a reflink or hard link; takes no space.")  # fmt: skip
@click.option("--move", "how", flag_value="move", help="Move the file into the library.")
@click.option("--copy", "how", flag_value="copy", help="Copy it; takes the space twice.")
@click.option("--update", is_flag=True, help="Let --name mean this checkpoint from now on.")
@_show.json_option
def command(paths: tuple[str, ...], name: str | None, how: str, update: bool, as_json: bool) -> int:
    """Take checkpoints into the library; they stay where they are unless you say so.

    PATH is a file, a diffusers folder, or any folder: then every checkpoint below it. Each file is read once,
    for its SHA-256 and the digest of every tensor; an unchanged one is not read again.
    """
    from memcard.jobs.library import Library

    library = Library()
    with _show.progress() as progress:
        found = library.add(paths, name=name, how=how, update=update, progress=progress)  # type: ignore[arg-type]  # click has checked it
    if as_json:
        _show.print_json([added.to_dict() for added in found])
        return 0
    rows = [
        [a.name, a.sha256[:12], _show.human_size(a.size), a.status, a.kept, str(a.path)]
        for a in found
    ]
    header = ["name", "sha256", "size", "is", "kept", "from"]
    click.echo(_show.table(rows, header=header))
    for added in found:
        for note in added.notes:
            _show.advise(f"{added.name}: {note}")
    return 0
