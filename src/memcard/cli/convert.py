"""memcard convert: another container, dialect or dtype."""

from __future__ import annotations

from typing import Any

import click

from memcard.cli import _show


@click.command(
    epilog=_show.examples(
        "memcard convert model.ckpt model.safetensors",
        "memcard convert model.safetensors unet.safetensors --only unet",
        "memcard convert big.safetensors small.safetensors --dtype bf16",
        "memcard convert model.safetensors folder/ --dialect diffusers",
        "memcard convert folder/ model.safetensors --dialect ldm",
    )
)
@click.argument("src")
@click.argument("dst")
@click.option(
    "--dtype",
    help="Cast floating-point tensors: fp32, fp16, bf16, fp64, fp8_e4m3 or fp8_e5m2; unpacks GGUF. "
    "Changes bits.",
)
@click.option("--allow-overflow", is_flag=True, help="Let values too large for DTYPE be infinite.")
@click.option(
    "--only",
    multiple=True,
    metavar="PART",
    help="Keep these parts (unet, vae, text_encoder, …); ema: EMA weights for the raw ones.",
)
@click.option("--without", multiple=True, metavar="PART", help="Leave these parts out; also: ema.")
@click.option(
    "--dialect",
    type=click.Choice(["ldm", "diffusers"]),
    help="Translate the names for SD 1, 2, XL, 3 and Flux. No bit changes.",
)
@click.option("--max-shard", metavar="SIZE", help="Most bytes in one file, such as 5GB.")
@click.option(
    "--salvage", is_flag=True, help="Take the tensors out of a file that asks to run code."
)
@click.option("--dry-run", is_flag=True, help="Print the plan; write nothing.")
@_show.force_option
@_show.json_option
def command(src: str, dst: str, *, as_json: bool, **options: Any) -> int:
    """Write a checkpoint in another format, bit for bit.

    The name of DST decides the format: .safetensors, .safetensors.index.json, .ckpt, .pt or .pth; a
    name that ends in / is a diffusers folder. SRC is read by content and nothing inside it is run.
    Without --dtype no value changes.
    """
    from memcard.jobs.convert import convert

    with _show.progress() as progress:
        result = convert(src, dst, progress=progress, **options)
    if as_json:
        _show.print_json(result.to_dict())
        return 0
    size = _show.human_size(result.size)
    click.echo(_show.clean(f"{result.path}  {_show.counted(result.tensors, 'tensor')}, {size}"))
    if not result.written:
        _show.print_facts(_plan(result))
    for note in result.notes:
        _show.advise(f"note: {note}")
    if not result.written:
        _show.advise("dry run: nothing was written.")
    return 0


def _plan(result: Any) -> dict[str, Any]:
    """Return what a dry run shows beside the size."""
    return {
        "format": result.format,
        "components": {k: _show.human_size(n) for k, n in result.components.items()},
        "copied as they are": result.copied or None,
        "renamed": result.renamed or None,
        "put together anew": result.rearranged or None,
        "cast": {what: _show.counted(n, "tensor") for what, n in result.cast.items()},
        "left out": _show.counted(len(result.left_out), "tensor") if result.left_out else None,
    }
