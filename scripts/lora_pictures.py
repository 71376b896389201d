"""Make the picture of docs/lora.md: what strength, blocks, combination and extraction do to the starter.

    python scripts/lora_pictures.py docs/images

A minute on two cores, no network. One seed throughout, so the pictures can be made again at any time.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import memcard
from memcard.core.atomic import replacing
from memcard.generation.grid import Row, sheet
from memcard.jobs.lora import lora_bake
from memcard.jobs.lora_extract import lora_extract

BASE, NEON = "starter", "starter/neon"
PIXEL, BLUEPRINT = "starter/lora_pixel", "starter/lora_blueprint"
PROMPTS = (
    "3d render of a dog face",
    "flat icon of a red apple",
    "cartoon of a rocket, sky blue background",
    "3d render of a house, pink background",
    "cartoon of a pizza",
)
SEED, CELL, QUALITY = 1, 96, 90
IN, OUT = [("down_blocks", 1.0), ("unet", 0.0)], [("up_blocks", 1.0), ("unet", 0.0)]


def styles(folder: Path) -> Iterator[tuple[str, str, str | Path]]:
    """Yield a label, what is told beneath, and the checkpoint of each row."""
    out = folder / "styled.safetensors"
    yield "base", "no LoRA", BASE
    for strength in (0.5, 1.0, 1.5):
        made = lora_bake(BASE, [(PIXEL, strength)], out, overwrite=True)
        yield f"pixel:{strength:g}", "strength", made.out
    for blocks, words in ((IN, "IN"), (OUT, "OUT")):
        made = lora_bake(BASE, [(PIXEL, 1.0)], out, blocks=blocks, overwrite=True)
        yield "pixel:1", f"{words} blocks only", made.out
    both = [(PIXEL, 0.5), (BLUEPRINT, 0.5)]
    yield "pixel:0.5 blueprint:0.5", "both", lora_bake(BASE, both, out, overwrite=True).out
    for rank in (8, 32):
        lora = lora_extract(BASE, NEON, folder / f"{rank}.safetensors", rank=rank).out
        made = lora_bake(BASE, [(lora, 1.0)], out, overwrite=True)
        yield f"neon, rank {rank}", "extracted", made.out
    yield "neon", "the fine-tune itself", NEON


def main() -> None:
    """Draw the grid."""
    parser = argparse.ArgumentParser(description="Make the picture of docs/lora.md.")
    parser.add_argument("out", type=Path, help="folder for lora_styles.webp")
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as name:
        rows = [
            Row(label, detail, memcard.generate(PROMPTS, ref, seed=SEED))
            for label, detail, ref in styles(Path(name))
        ]
    with replacing(out / "lora_styles.webp") as file:
        sheet(rows, PROMPTS, cell=CELL).save(file, "WEBP", quality=QUALITY, method=6)


if __name__ == "__main__":
    main()
