"""memcard convert: another container, the same bits."""

from __future__ import annotations

from pathlib import Path

import click

from memcard.cli import _show


@click.command(
    epilog=_show.examples(
        "memcard convert model.ckpt model.safetensors",
        "memcard convert model.safetensors unet.safetensors --only unet",
        "memcard convert big.safetensors small.safetensors --dtype bf16",
    )
)
@click.argument("src")
@click.argument("dst", type=click.Path(path_type=Path))
@click.option("--dtype", help="Cast floating-point tensors: fp32, fp16 or bf16. Changes bits.")
@click.option(
    "--only",
    type=click.Choice(["unet", "vae", "text_encoder", "ema", "no-ema"]),
    help="Keep one part; or take EMA weights, or drop them.",
)
@click.option("--overwrite", is_flag=True, help="Replace DST if it exists.")
@_show.json_option
def command(
    src: str, dst: Path, dtype: str | None, only: str | None, overwrite: bool, as_json: bool
) -> int:
    """Write a checkpoint in another format, bit for bit.

    The suffix of DST decides the format: .safetensors, .ckpt, .pt or .pth. SRC is read by content and
    nothing inside it is run. Without --dtype no value changes.
    """
    from memcard.jobs.convert import convert

    with _show.progress() as progress:
        result = convert(src, dst, dtype=dtype, only=only, overwrite=overwrite, progress=progress)
    if as_json:
        _show.print_json(result.to_dict())
        return 0
    click.echo(f"{result.path}  {result.tensors} tensors, {_show.human_size(result.size)}")
    for note in result.notes:
        _show.advise(f"note: {note}")
    return 0
