"""memcard generate: a prompt becomes pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from memcard.cli import _generate_view, _show
from memcard.cli._types import Control, Numbers, Rule, Size, WeightedLora


@click.command(
    epilog=_show.examples(
        'memcard generate "a red apple"',
        'memcard generate "cartoon of a rocket, sky blue background" -n 4 --seed 7 -o rockets/',
        'memcard generate "a rocket" -c model.safetensors --lora style.safetensors:0.8 --cfg 5',
        'memcard generate "a rocket" --sampler "DPM++ 2M Karras" --steps 30 -o rocket.png',
        'memcard generate "a (red:1.3) [cat:dog:0.5] <lora:pixel:0.6>" --clip-skip 2',
        'memcard generate "a green apple" --image apple.png --strength 0.6 -o greener.png',
        "memcard generate --from rocket.png --seed 8",
        "memcard generate --prompts prompts.txt -o pictures/",
        "memcard generate -c model.safetensors --dry-run",
    )
)
@click.argument("prompt", required=False)
@click.option(
    "-c",
    "--checkpoint",
    metavar="REF",
    help="A file, a folder, a name of the library or of the starter.  [default: starter]",
)
@click.option(
    "--lora", "loras", multiple=True, type=WeightedLora(), help="Lay a LoRA on top; repeatable."
)
@click.option(
    "--blocks", multiple=True, type=Rule(), help="Strength of the LoRAs in modules REGEX finds."
)
@click.option("--vae", metavar="REF", help="Use another VAE.")
@click.option(
    "--text-encoder",
    "text_encoders",
    multiple=True,
    metavar="REF",
    help="Use another text encoder, or one that the checkpoint lacks; repeatable.",
)
@click.option(
    "--no-t5",
    "t5",
    flag_value=False,
    default=None,
    type=bool,
    help="Do without T5 where the family can (Stable Diffusion 3): much less memory.",
)
@click.option(
    "--embedding",
    "embeddings",
    multiple=True,
    metavar="REF",
    help="A textual inversion; the prompt names it by its file's name. Repeatable.",
)
@click.option(
    "--sampler", help="euler, euler_a, ddim, dpmpp_2m, … or the name another tool gives it."
)
@click.option(
    "--schedule", help="Spacing of the noise levels: normal, karras, exponential, trailing, …"
)
@click.option("--steps", type=click.IntRange(min=1), help="Number of denoising steps.")
@click.option("--cfg", type=float, help="Guidance scale; 1 is none.")
@click.option("--guidance", type=float, help="Distilled guidance, of Flux dev.")
@click.option(
    "--image-cfg", type=float, help="How far --image is followed by InstructPix2Pix; 1.5 is usual."
)
@click.option("--cfg-rescale", type=float, help="0 to 1: pull the guided contrast back.")
@click.option("--cfg-low", type=float, help="No guidance below this noise level.")
@click.option("--cfg-high", type=float, help="No guidance above this noise level.")
@click.option("--threshold", type=float, help="0 to 1: percentile of dynamic thresholding; 0: off.")
@click.option("--clip-skip", type=int, help="1: the usual layer of CLIP; 2: the one before.")
@click.option("--seed", type=int, help="Same seed, same picture. Default: drawn, and printed.")
@click.option("--size", type=Size(), help="Width and height in pixels.")
@click.option("-n", "count", type=click.IntRange(min=1), default=1, help="Number of pictures.")
@click.option("--negative", help="What the picture should not be.")
@click.option("--motion", metavar="REF", help="A motion module: clips instead of pictures.")
@click.option("--frames", type=int, help="Of a clip.")
@click.option("--fps", type=int, help="Frames per second of a clip.")
@click.option(
    "--image",
    type=click.Path(path_type=Path),
    help="Begin from a picture; of a clip it is the first frame.",
)
@click.option("--last-image", type=click.Path(path_type=Path), help="Where the clip ends.")
@click.option("--mask", type=click.Path(path_type=Path), help="White where --image may change.")
@click.option(
    "--outpaint",
    type=Numbers(),
    metavar="L,T,R,B",
    help="Pixels to add to --image left, above, right and below.",
)
@click.option("--strength", type=float, help="0 to 1: how much of --image is painted anew.")
@click.option(
    "--control",
    "controls",
    multiple=True,
    type=Control(),
    help="A ControlNet, for how much of the steps if not all; repeatable.",
)
@click.option(
    "--control-image",
    "control_images",
    multiple=True,
    type=click.Path(path_type=Path),
    help="The picture it follows: edges, depths, a pose. One for each, or one for all.",
)
@click.option("--canny", is_flag=True, help="--control-image is a photo: follow its edges.")
@click.option(
    "--edit/--no-edit",
    default=None,
    help="--image is what the prompt changes, not where painting begins. Flux.1 Kontext is known by its name.",
)
@click.option(
    "--refiner", metavar="REF", help="Another SDXL, usually its refiner, walks the last steps."
)
@click.option("--refiner-at", type=float, help="0 to 1: where it begins.  [default: 0.8]")
@click.option("--hires", type=float, help="Paint again, so many times larger.")
@click.option("--hires-strength", type=float, default=0.5, show_default=True, help="0 to 1.")
@click.option("--hires-steps", type=int, help="Default: as many as before.")
@click.option(
    "--hires-upscaler",
    type=click.Choice(["lanczos", "latent"]),
    default="lanczos",
    show_default=True,
    help="What makes it larger.",
)
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path),
    metavar="IMAGE",
    help="Repeat a picture of any tool; what else is said here counts more.",
)
@click.option(
    "--prompts",
    "lines",
    metavar="FILE",
    help="Paint each line of a text file; `-` reads stdin as it comes. Models stay in memory.",
)
@click.option(
    "--preview", type=click.Path(path_type=Path), help="Keep a picture of the state here."
)
@click.option(
    "--auto", is_flag=True, help="Let `memcard pick` choose the checkpoint for the prompt."
)
@click.option("--device", default="auto", help="auto, cpu, cuda, mps.")
@click.option("--dtype", default="auto", help="Compute in: auto, F32, BF16, F16.")
@click.option(
    "--low-memory",
    is_flag=True,
    help="Let go of the text encoders once the prompts are read; decode in tiles.",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    metavar="OUT",
    help="A .png, .jpg or .webp file (clips: .mp4, .webp, .gif), or a folder. Default: named after the prompt, here.",
)
@click.option(
    "--format", type=click.Choice(["png", "jpg", "webp", "mp4", "gif"]), help="Of names made here."
)
@click.option("--quality", type=int, help="1 to 100, of JPEG and WebP.")
@click.option(
    "--dry-run", is_flag=True, help="Say what would be used, and how much memory; read no weight."
)
@_show.json_option
def command(
    size: tuple[int, int] | None,
    count: int,
    out: Path | None,
    format: str | None,  # noqa: A002  # the option's name
    quality: int | None,
    lines: str | None,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Make pictures with any checkpoint.

    With no options at all it uses the starter model that ships with memcard. What is not said is taken
    from the checkpoint's card, then from its family. The settings and the checkpoint's hash go into the
    picture. The prompt knows A1111's language: (word:1.2), [from:to:0.5], <lora:name:0.8>.
    """  # fmt: skip
    from memcard.jobs.generate import refuse_out, save
    from memcard.jobs.generate_again import run_again

    width, height = size or (None, None)
    said = {"n": count, "width": width, "height": height, **options}
    if lines is not None:
        _refuse_beside_lines(options, dry_run=dry_run)
        return _generate_view.print_lines(lines, out, format, quality, as_json=as_json, said=said)
    if dry_run:
        from memcard.jobs.generate_again import plan_again

        with _show.progress() as progress:
            plan = plan_again(progress=progress, **said)
        _generate_view.print_plan(plan, as_json=as_json)
        return 0
    refuse_out(out)
    with _show.progress() as progress:
        result = run_again(progress=progress, **said)
        paths = save(result, out, format=format, quality=quality)
    if as_json:
        _show.print_json({**result.to_dict(), "files": [str(path) for path in paths]})
        return 0
    for path in paths:
        click.echo(str(path))
    _show.advise(result.summary())
    return 0


def _refuse_beside_lines(options: dict[str, Any], *, dry_run: bool) -> None:
    """Refuse what would be said twice, or for nothing."""
    from memcard.errors import UsageError

    if options.get("prompt") is not None:
        raise UsageError("--prompts takes its prompts from the lines; leave PROMPT out.")
    if dry_run:
        raise UsageError("--dry-run is about one run; try it with one prompt instead of --prompts.")
