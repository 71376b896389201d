"""memcard tune: find the settings that suit a checkpoint."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from memcard.cli import _show
from memcard.cli._types import Size, Weighted

if TYPE_CHECKING:
    from memcard.jobs.tune import Tuned


@click.command(
    epilog=_show.examples(
        "memcard tune starter",
        "memcard tune my-tune --budget 30m --write",
        "memcard tune sdxl.safetensors --size 512x512 --prompts prompts.txt --budget 200",
        "memcard tune starter --lora starter/pixel:0.8 --json | jq .found",
    )
)
@click.argument("ref")
@click.option("--lora", "loras", multiple=True, type=Weighted(), help="With a LoRA; repeatable.")
@click.option("--vae", metavar="REF", help="With another VAE.")
@click.option("--text-encoder", "text_encoders", multiple=True, metavar="REF",
              help="A file with parts the checkpoint lacks; repeatable.")  # fmt: skip
@click.option("--prompt", "prompts", multiple=True, help="Search with this prompt; repeatable.")
@click.option(
    "--prompts",
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Search with the prompts of a text file, one a line.",
)
@click.option(
    "--budget", default="150", show_default=True, help="Pictures, or a time such as 20m or 2h."
)
@click.option("--cfg", type=float, help="Keep this guidance scale.")
@click.option("--steps", type=click.IntRange(min=1), help="Keep this number of steps.")
@click.option("--sampler", help="Keep this sampler.")
@click.option("--schedule", help="Keep this spacing of the noise levels.")
@click.option("--size", type=Size(), help="Width and height in pixels.")
@click.option("--negative", help="What no picture should be.")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True)
@click.option(
    "--closeness",
    type=click.FloatRange(10, 50),
    default=35.0,
    show_default=True,
    help="How near to the converged picture steps must come, in dB.",
)
@click.option("--clip", metavar="FOLDER", help="Show the score of this CLIP model too.")
@click.option("-o", "--out", type=click.Path(path_type=Path), metavar="FOLDER",
              help="Report and measurements; a search that was stopped goes on there.")  # fmt: skip
@click.option("--write/--no-write", "--yes/--no", "write", default=None,
              help="Put the settings on the card; by itself it asks.")  # fmt: skip
@click.option("--force", is_flag=True, help="Begin anew in a folder that holds another search.")
@click.option("--device", default="auto", help="auto, cpu, cuda, mps.")
@click.option("--dtype", default="auto", help="Compute in: auto, F32, BF16, F16.")
@_show.json_option
def command(
    ref: str,
    loras: tuple[tuple[str, float], ...],
    prompts: tuple[str, ...],
    file: Path | None,
    size: tuple[int, int] | None,
    write: bool | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Find the guidance, sampler and steps that suit a checkpoint.

    Paints and judges pictures: guidance by how clearly the model itself recognises the prompt, sampler and steps by
    how near they come to the converged picture. The result is compared with the family's settings on prompts and
    seeds that chose nothing. Writes a page with curves and sheets. Ends with 1 if nothing better was found.
    """
    from memcard.jobs import tune as job

    width, height = size or (None, None)
    given = (*prompts, *(job.read_prompts(file) if file else ()))
    with _show.progress() as progress:
        found = job.tune(
            *(ref, loras),
            prompts=given,
            width=width,
            height=height,
            write=bool(write),
            progress=progress,
            **options,
        )
    written = found.written
    if write is None and found.recommended and not loras and _asked():
        written = job.write_settings(ref, found)
    if as_json:
        _show.print_json({**found.to_dict(), "written": str(written) if written else None})
    else:
        _print(found)
    if written:
        _show.advise(f"written: {written}")
    return 0 if found.recommended else 1


def _asked() -> bool:
    """Ask, if someone is there to answer."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    return click.confirm("Put these settings on the card?", default=False, err=True)


def _print(found: Tuned) -> None:
    rows = [[name, _text(found.usual[name]), _text(value)] for name, value in found.found.items()]
    rows.append(["runs a picture", str(found.usual_evaluations), str(found.evaluations)])
    for name, (ours, theirs, gain) in found.check.items():
        if name in found.judging:
            shown = f"{ours.mean:.3f}  ({gain.verdict}: {gain.low:+.3f} to {gain.high:+.3f})"
            rows.append([name, f"{theirs.mean:.3f}", shown])
    click.echo(_show.table(rows, header=["", "family", "found"]))
    click.echo(_show.clean(found.verdict))
    click.echo(str(found.page))
    for note in found.notes:
        _show.advise(f"note: {note}")


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
