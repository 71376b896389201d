"""Make the pictures of docs/finetune.md: a style of its own, taught to the starter as a LoRA and as a whole.

    python scripts/finetune_pictures.py docs/images [--work FOLDER] [--data-only]

About ten CPU minutes on one core, no network. The starter paints 150 objects, numpy turns them into chalk drawings,
and two runs of ``memcard finetune`` learn those. Repeated, it goes on where it stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

import memcard
from memcard.core.atomic import replacing
from memcard.generation.grid import Row, sheet

OBJECTS = Path(__file__).parents[1] / "examples" / "starter" / "objects.txt"
STYLES = ("3d render", "flat icon", "cartoon", "retro drawing")
NO_ARTICLE = ("glasses", "scissors", "grapes", "cherries", "french fries", "sushi")
PROMPTS = (
    "chalk drawing of a dog face",
    "chalk drawing of a red apple",
    "chalk drawing of a rocket",
    "chalk drawing of a house",
    "3d render of an owl",
)
SIDE, FINE, SEED, CELL, QUALITY = 64, 4, 11, 96, 90
BOARD, CHALK = np.array([0.13, 0.27, 0.22]), np.array([0.97, 0.97, 0.93])


def chalk(picture: Image.Image, seed: int) -> Image.Image:
    """Draw a picture on white with chalk on a green board: soft outlines, streaked fillings."""
    grain = np.random.default_rng(seed).random((SIDE * FINE, SIDE * FINE))
    size = (SIDE * FINE, SIDE * FINE)
    large = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    x = np.asarray(large.filter(ImageFilter.GaussianBlur(0.75 * FINE)), dtype=float) / 255
    dx, dy = np.zeros_like(x), np.zeros_like(x)
    dx[:, 1:-1], dy[1:-1] = x[:, 2:] - x[:, :-2], x[2:] - x[:-2]
    line = np.clip(7 * np.hypot(dx, dy).max(-1) - 0.2, 0, 1) * (0.75 + 0.25 * grain)
    body = np.clip(3 * (1 - x.min(-1)) - 0.2, 0, 1)  # what is not white
    rows, columns = np.mgrid[: size[1], : size[0]]
    streaks = 0.75 + 0.25 * np.sin((rows + columns) * 2 * np.pi / (9 * FINE))
    colour = 0.25 + 0.75 * x / np.maximum(x.max(-1, keepdims=True), 0.2)
    fill = (0.62 * body * streaks * (0.8 + 0.2 * grain))[..., None]
    drawn = BOARD * (1 - fill) + colour * fill
    drawn = drawn * (1 - line[..., None]) + CHALK * line[..., None]
    image = Image.fromarray((drawn.clip(0, 1) * 255).astype(np.uint8))
    return image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def write_data(folder: Path) -> Path:
    """Write pictures and captions, unless they are there."""
    things = [line.strip() for line in OBJECTS.read_text().splitlines() if line.strip()]
    if len(list(folder.glob("*.txt"))) == len(things):
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    prompts = [f"{STYLES[n % 4]} of {said(thing)}" for n, thing in enumerate(things)]
    for n, (thing, image) in enumerate(
        zip(things, memcard.generate(prompts, seed=SEED), strict=True)
    ):
        stem = folder / thing.lower().replace(" ", "_")
        chalk(image, n).save(stem.with_suffix(".png"))
        stem.with_suffix(".txt").write_text(f"chalk drawing of {said(thing)}\n")
    return folder


def said(thing: str) -> str:
    """Return an object with its article."""
    thing = thing.lower()
    if thing in NO_ARTICLE:
        return thing
    return f"{'an' if thing[0] in 'aeio' or thing.startswith('umb') else 'a'} {thing}"


def main() -> None:
    """Make data, runs and pictures."""
    parser = argparse.ArgumentParser(description="Make the pictures of docs/finetune.md.")
    parser.add_argument("out", type=Path, help="folder for finetune_*.webp")
    parser.add_argument("--work", type=Path, default=Path("finetune-pictures"))
    parser.add_argument("--data-only", action="store_true", help="only write WORK/chalk")
    args = parser.parse_args()
    data = write_data(args.work / "chalk")
    if args.data_only:
        return
    runs = {}
    for name, rank in (("chalk-lora", 16), ("chalk-full", 0)):
        runs[name] = memcard.finetune(
            *("starter", data, args.work / name),
            run_dir=args.work / "runs" / name,
            data_license="Apache-2.0",
            library=False,
            prompts=PROMPTS,
            rank=rank,
            watch=lambda moment: print(moment.step, round(moment.loss, 4), flush=True),
        )
    with Image.open(runs["chalk-lora"].sheet) as learning:
        _save(learning.convert("RGB"), args.out / "finetune_sheet.webp")
    _save(examples(data), args.out / "finetune_data.webp")
    lora, full = (runs[name].files[0] for name in runs)
    rows = [
        Row("base", "", memcard.generate(PROMPTS, seed=1)),
        Row("LoRA 0.5", "half strength", memcard.generate(PROMPTS, loras=[(lora, 0.5)], seed=1)),
        Row("LoRA", "rank 16", memcard.generate(PROMPTS, loras=[(lora, 1.0)], seed=1)),
        Row("fine-tune", "the whole UNet", memcard.generate(PROMPTS, full, seed=1)),
    ]
    _save(sheet(rows, PROMPTS, cell=CELL), args.out / "finetune_results.webp")


def examples(data: Path) -> Image.Image:
    """Return some pictures of the data side by side."""
    files = sorted(data.glob("*.png"))[::15][:10]
    page = Image.new("RGB", (len(files) * (CELL + 4), CELL), "white")
    for n, file in enumerate(files):
        with Image.open(file) as image:
            page.paste(image.resize((CELL, CELL), Image.Resampling.BICUBIC), (n * (CELL + 4), 0))
    return page


def _save(image: Image.Image, path: Path) -> None:
    with replacing(path) as file:
        image.save(file, "WEBP", quality=QUALITY)


if __name__ == "__main__":
    main()
