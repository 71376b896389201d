"""Draw a sheet: one row per model and style, one column per common object.

python sheet.py --folder src/memcard/starter --out sheet.png [--beside DIR/starter]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from captions import article
from painter import Painter, add_lora, read_painter
from pictures import STYLES
from PIL import Image, ImageDraw
from score import COMMON
from torch import Tensor

TILE, LEFT, TOP = 66, 150, 14


def row(painter: Painter, style: str, behind: str = "", **settings: float) -> Tensor:
    """Paint the common objects in one style; an empty style leaves it out."""
    lead = f"{style} of " if style else ""
    return painter.paint([f"{lead}{article(o)}{o}{behind}" for o in COMMON], **settings)


def draw(rows: list[tuple[str, Tensor]], colours: int = 256) -> Image.Image:
    """Lay out labelled rows and reduce to a palette."""
    width, height = LEFT + len(COMMON) * TILE, TOP + len(rows) * TILE
    sheet = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(sheet)
    for x, name in enumerate(COMMON):
        pen.text((LEFT + x * TILE, 1), name[:11], fill="black")
    for y, (label, pictures) in enumerate(rows):
        pen.text((2, TOP + y * TILE + 26), label, fill="black")
        for x, picture in enumerate(pictures):
            pixels = (picture.permute(1, 2, 0) * 255).round().byte().numpy()
            sheet.paste(Image.fromarray(pixels), (LEFT + x * TILE, TOP + y * TILE))
    return sheet.quantize(colours, dither=Image.Dither.NONE)


def all_rows(folder: Path) -> list[tuple[str, Tensor]]:
    """Paint every shipped file."""
    base = folder / "base.safetensors"
    painter = read_painter(base)
    rows = [(f"{s}, CFG 3", row(painter, s)) for s in STYLES]
    rows += [(f"cartoon, CFG {c:g}", row(painter, "cartoon", cfg=c)) for c in (1.0, 7.0)]
    rows.append(("no style word", row(painter, "")))
    rows.append(("sky blue background", row(painter, "cartoon", ", sky blue background")))
    for path in sorted(folder.glob("*.safetensors")):
        kind = path.stem.split("_")[0]
        if kind in ("raw", "finetune", "vae"):
            rows.append((path.stem, row(read_painter(base, path), "cartoon")))
        if kind == "lora":
            for strength in (0.5, 1.0):
                painter = read_painter(base)
                add_lora(painter, path, strength)
                rows.append((f"{path.stem} {strength:g}", row(painter, "cartoon")))
    return rows


def beside(
    old: list[tuple[str, Tensor]], new: list[tuple[str, Tensor]]
) -> list[tuple[str, Tensor]]:
    """Lay the rows that both have under one another."""
    known = dict(old)
    pairs = [[(f"{n}: old", known[n]), (f"{n}: new", row)] for n, row in new if n in known]
    return [one for pair in pairs for one in pair]


def main() -> None:
    """Read the command line and write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--beside", type=Path, help="folder of newer files, to compare with")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = all_rows(args.folder)
    if args.beside is not None:
        rows = beside(rows, all_rows(args.beside))
    draw(rows).save(args.out, optimize=True)


if __name__ == "__main__":
    main()
