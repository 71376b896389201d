"""memcard verify: whether stored checkpoints still are what they were."""

from __future__ import annotations

import time
from collections import Counter

import click

from memcard.cli import _show


@click.command(
    epilog=_show.examples("memcard verify", "memcard verify sdxl-base", "memcard verify --sample 5")
)
@click.argument("refs", nargs=-1, metavar="[REF]...")
@click.option("--sample", type=click.FloatRange(0, 100, min_open=True), default=100.0, metavar="PERCENT",
              help="Read this share only: other tensors on each day.")  # fmt: skip
@_show.json_option
def command(refs: tuple[str, ...], sample: float, as_json: bool) -> int:
    """Read what the library remembers, and tell whether it still is what it was.

    Names the tensors that are damaged. A file whose time changed and whose bytes did not is recorded anew. Ends with
    8 if a file is rotten, or if of some checkpoint no sound copy is left.
    """
    from memcard.jobs.library import Library

    with _show.progress() as progress:
        day = int(time.time() // 86400)
        found = Library().verify(*refs, sample=sample / 100, seed=day, progress=progress)
    if as_json:
        _show.print_json(found.to_dict())
    else:
        counts = Counter(file.verdict for file in found.files)
        listed = ", ".join(
            f"{counts[v]} {v}" for v in ("ok", "rotten", "changed", "missing") if counts[v]
        )
        read = _show.human_size(sum(file.read for file in found.files))
        click.echo(
            f"{_show.counted(len(found.files), 'file')} looked at, {read} read: {listed or 'none'}"
        )
        for fault in found.faults:
            click.echo(_show.clean(fault))
        for name in found.lost:
            click.echo(
                _show.clean(f"{name}: no sound copy is at hand; `memcard show` tells where it was.")
            )
    return 0 if found.ok else 8
