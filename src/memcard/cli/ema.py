"""memcard ema: averages of snapshots, chosen after the training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from memcard.cli import _show
from memcard.cli._types import Numbers


@click.group()
def command() -> None:
    """Make an average of snapshots of any length after the training."""


@command.command(
    epilog=_show.examples(
        "memcard ema combine run/*-0.050.safetensors run/*-0.100.safetensors --sigma-rel 0.12 --out ema.safetensors",
        "memcard ema combine a.safetensors b.safetensors --sigma-rel 0.1 --steps 1000,2000 "
        "--snapshot-sigmas 0.05 --out ema.safetensors",
        "memcard ema combine run/step-*.safetensors --last 5 --out soup.safetensors",
    )
)
@click.argument("snapshots", nargs=-1, required=True, metavar="SNAP...")
@click.option("--sigma-rel", type=float, help="Width of the EMA, as a share of the training.")
@click.option("--at", type=float, metavar="STEP", help="Where it ends; default: the last snapshot.")
@click.option("--last", type=int, metavar="N", help="Instead: the plain mean of the last N.")
@click.option(
    "--steps", type=Numbers(), help="The steps of the snapshots, if the files do not say."
)
@click.option(
    "--snapshot-sigmas",
    type=Numbers(),
    help="The sigma_rel the snapshots were kept with: one each, or one for all.",
)
@click.option("--dtype", default="widest", help="dtype of the result: F32, F16 or BF16.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="File to write.")
@_show.force_option
@click.option("--dry-run", is_flag=True, help="Print the plan; write nothing.")
@_show.json_option
def combine(snapshots: tuple[str, ...], *, as_json: bool, **options: Any) -> int:
    """Average snapshots: post-hoc EMA of any width, or the plain mean of the last few.

    For --sigma-rel the snapshots are power-function EMAs, best of two widths (0.05 and 0.1) at each step.
    Their steps and widths are read from the files (memcard.ema.step, memcard.ema.sigma_rel), from names
    like phema-0002048-0.100, or from the options.
    """
    from memcard.jobs.ema import ema_combine

    with _show.progress() as progress:
        result = ema_combine(snapshots, progress=progress, **options)
    _show.print_made(result, as_json=as_json)
    return 0


@command.command(
    epilog=_show.examples(
        "memcard ema posthoc runs/a --sigma-rel 0.15 --out ema.safetensors",
        "memcard ema posthoc runs/a --sigma-rel 0.15 --out my-ema",
        "memcard ema posthoc runs/a --sigma-rel 0.1 --at 20000 --out early.safetensors --dry-run",
    )
)
@click.argument("sources", nargs=-1, required=True, metavar="RUN|SNAP...")
@click.option(
    "--sigma-rel", type=float, required=True, help="Width of the EMA, as a share of the training."
)
@click.option("--at", type=float, metavar="STEP", help="Where it ends; default: the last snapshot.")
@click.option("--dtype", default="widest", help="dtype of the result: F32, F16 or BF16.")
@click.option("--out", required=True, metavar="FILE|NAME",
              help="File to write. NAME alone is NAME.safetensors, and its name in the library.")  # fmt: skip
@_show.force_option
@click.option("--dry-run", is_flag=True, help="Print the plan; write nothing.")
@_show.json_option
def posthoc(sources: tuple[str, ...], *, as_json: bool, **options: Any) -> int:
    """Make the EMA of any width from the snapshots of a run.

    RUN is the folder of a training that kept averages of two widths (memcard.training.post_hoc). The result
    is a weighted sum of them, with its recipe inside.
    """
    from memcard.jobs.ema_posthoc import ema_posthoc

    with _show.progress() as progress:
        result = ema_posthoc(sources, progress=progress, **options)
    _show.print_made(result, as_json=as_json)
    return 0
