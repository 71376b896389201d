"""memcard generate: a prompt becomes pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from memcard.cli import _show
from memcard.cli._types import Size, Weighted


@click.command(
    epilog=_show.examples(
        'memcard generate "a red apple"',
        'memcard generate "cartoon of a rocket, sky blue background" -n 4 --seed 7 -o rockets/',
        'memcard generate "a rocket" -c model.safetensors --lora style.safetensors:0.8 --cfg 5',
        'memcard generate "a rocket" --sampler "DPM++ 2M Karras" --steps 30 -o rocket.png',
    )
)
@click.argument("prompt")
@click.option(
    "-c",
    "--checkpoint",
    default="starter",
    show_default=True,
    metavar="REF",
    help="A file, or a name of the starter.",
)
@click.option(
    "--lora", "loras", multiple=True, type=Weighted(), help="Lay a LoRA on top; repeatable."
)
@click.option("--vae", metavar="REF", help="Use another VAE.")
@click.option(
    "--sampler", help="euler, euler_a, ddim, dpmpp_2m, … or the name another tool gives it."
)
@click.option(
    "--schedule", help="Spacing of the noise levels: normal, karras, exponential, trailing."
)
@click.option("--steps", type=click.IntRange(min=1), help="Number of denoising steps.")
@click.option("--cfg", type=float, help="Guidance scale; 1 is none.")
@click.option("--seed", type=int, help="Same seed, same picture. Default: drawn, and printed.")
@click.option("--size", type=Size(), help="Width and height in pixels.")
@click.option("-n", "count", type=click.IntRange(min=1), default=1, help="Number of pictures.")
@click.option("--negative", help="What the picture should not be.")
@click.option("--device", default="auto", help="auto, cpu, cuda, mps.")
@click.option("--dtype", default="auto", help="Compute in: auto, F32, BF16, F16.")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    metavar="OUT",
    help="A .png file or a folder. Default: named after the prompt, here.",
)
@_show.json_option
def command(
    prompt: str,
    checkpoint: str,
    loras: tuple[tuple[str, float], ...],
    size: tuple[int, int] | None,
    count: int,
    out: Path | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Make pictures with any checkpoint.

    With no options at all it uses the starter model that ships with memcard. What is not said is taken
    from the checkpoint's card, then from its family. The settings and the checkpoint's hash go into the PNG.
    """  # fmt: skip
    from memcard.jobs.generate import run, save

    width, height = size or (None, None)
    with _show.progress() as progress:
        result = run(
            prompt,
            checkpoint,
            loras,
            n=count,
            width=width,
            height=height,
            progress=progress,
            **options,
        )
        paths = save(result, out)
    if as_json:
        _show.print_json({**result.to_dict(), "files": [str(path) for path in paths]})
        return 0
    for path in paths:
        click.echo(str(path))
    _show.advise(result.summary())
    return 0
