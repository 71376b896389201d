"""memcard scan: what lies in folders of models."""

from __future__ import annotations

from collections import Counter

import click

from memcard.cli import _show


@click.command(
    epilog=_show.examples(
        "memcard scan ~/ComfyUI/models",
        "memcard scan ~/models /mnt/cold/models --hash",
        "memcard scan ~/models --json | jq '.[] | select(.state == \"new\").path'",
    )
)
@click.argument("folders", nargs=-1, required=True, metavar="FOLDER...")
@click.option("--hash", "hashed", is_flag=True, help="Read what is new and add it, where it is.")
@_show.json_option
def command(folders: tuple[str, ...], hashed: bool, as_json: bool) -> int:
    """Look through folders of models: what is there, what the library knows, and what is new.

    Reads headers only, and changes nothing. With --hash all that is new is read once and added to the library; the
    files stay where they are. If that is interrupted, the next scan goes on. Ends with 1 if there is no checkpoint.
    """
    from memcard.jobs.library import Library

    with _show.progress() as progress:
        found = Library().scan(folders, hashed=hashed, progress=progress)
    if as_json:
        _show.print_json([entry.to_dict() for entry in found])
    elif found:
        rows = [
            [
                e.state,
                e.kind,
                e.architecture or "",
                _show.human_size(e.size),
                e.name or "",
                str(e.path),
            ]
            for e in found
        ]
        header = ["state", "kind", "family", "size", "name", "path"]
        click.echo(_show.table(rows, header=header))
        for entry in found:
            if entry.note:
                _show.advise(
                    entry.note if entry.state == "unreadable" else f"{entry.path}: {entry.note}"
                )
        counts = Counter(entry.state for entry in found)
        _show.advise(", ".join(f"{count} {state}" for state, count in counts.items()))
    return 0 if found else 1
