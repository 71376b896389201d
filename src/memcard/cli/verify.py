"""memcard verify: whether stored checkpoints still are what they were."""

from __future__ import annotations

import time
from collections import Counter

import click

from memcard.cli import _show


@click.command(
    epilog=_show.examples(
        "memcard verify",
        "memcard verify sdxl-base",
        "memcard verify --sample 5",
        "memcard verify --older-than 30",
    )
)
@click.argument("refs", nargs=-1, metavar="[REF]...")
@click.option("--sample", type=click.FloatRange(0, 100, min_open=True), default=100.0, metavar="PERCENT",
              help="Read this share only: other tensors on each day.")  # fmt: skip
@click.option("--older-than", type=click.FloatRange(0), default=0.0, metavar="DAYS",
              help="Pass over what was read whole and found sound within so many days: goes on where it was stopped.")  # fmt: skip
@_show.json_option
def command(refs: tuple[str, ...], sample: float, older_than: float, as_json: bool) -> int:
    """Read what the library remembers, and tell whether it still is what it was.

    Names the tensors that are damaged. A file whose time changed and whose bytes did not is recorded anew. Ends with
    8 if a file is rotten, or if of some checkpoint no sound copy is left.
    """
    from memcard.jobs.library import Library

    with _show.progress() as progress:
        day = int(time.time() // 86400)
        found = Library().verify(
            *refs,
            sample=sample / 100,
            seed=day,
            older_than=older_than * 86400,
            progress=progress,
        )
    if as_json:
        _show.print_json(found.to_dict())
    else:
        counts = Counter(file.verdict for file in found.files)
        listed = ", ".join(
            f"{counts[v]} {v}" for v in ("ok", "rotten", "changed", "missing") if counts[v]
        )
        packs = Counter(pack.state for pack in found.packs)
        listed_packs = ", ".join(f"{count} {state}" for state, count in packs.items())
        read = _show.human_size(sum(f.read for f in found.files) + sum(p.read for p in found.packs))
        click.echo(
            f"{_show.counted(len(found.files), 'file')} looked at, {read} read: {listed or 'none'}"
            + (
                f"; {_show.counted(len(found.packs), 'pack')}: {listed_packs}"
                if found.packs
                else ""
            )
            + (f"; {found.passed} found sound lately" if found.passed else "")
        )
        for fault in found.faults:
            click.echo(_show.clean(fault))
        for name in found.lost:
            click.echo(
                _show.clean(f"{name}: no sound copy is at hand; `memcard show` tells where it was.")
            )
    return 0 if found.ok else 8
