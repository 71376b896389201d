"""Make the pictures of docs/merge.md: what each method makes of the starter's checkpoints, and a report.

    python scripts/merge_pictures.py docs/images

A minute on two cores, no network. Every row is one merge by ``memcard.merge`` and one picture for each
prompt by ``memcard.generate``, with one seed throughout, so the pictures can be made again at any time.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import memcard
from memcard.core.atomic import replacing
from memcard.generation.grid import Row, sheet
from memcard.jobs.lora import lora_bake
from memcard.jobs.merge_report import draw_report, merge_report

BASE, NEON, STENCIL = "starter", "starter/neon", "starter/stencil"
PIXEL = "pixel.safetensors"  # made here, in the folder of this run
PROMPTS = (
    "3d render of a dog face",
    "flat icon of a red apple",
    "cartoon of a rocket, sky blue background",
    "3d render of a house, pink background",
    "retro drawing of a cat face",
    "cartoon of a pizza",
)
SEED, CELL, QUALITY = 1, 96, 90


@dataclass(frozen=True, slots=True)
class Line:
    """One row: what it is called, what is told beneath, and how it is made; a parent is not merged."""

    label: str
    detail: str
    inputs: tuple[str, ...]
    method: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)


def average(detail: str, first: str, second: str, **settings: Any) -> Line:
    """Return a row of the plain average."""
    return Line("weighted_average", detail, (first, second), "weighted_average", settings)


def changes(method: str, detail: str, *inputs: str, **settings: Any) -> Line:
    """Return a row of a method that works on changes from the base."""
    return Line(method, detail, inputs, method, {"base": BASE, **settings})


BLOCKS = Line(
    "by block",
    "stencil, but OUT04 and OUT05 of neon",
    (STENCIL, NEON),
    "weighted_average",
    {"blocks": "BASE=0,IN*=0,OUT02-03=0,OUT04-05=1"},
)
LINES = (
    Line("base", "parent of the other three", (BASE,)),
    Line("neon", "fine-tune", (NEON,)),
    Line("stencil", "fine-tune", (STENCIL,)),
    Line("pixel", "base + LoRA, baked", (PIXEL,)),
    average("0.7 base + 0.3 stencil", BASE, STENCIL, weights=(0.7, 0.3)),
    average("0.3 base + 0.7 neon", BASE, NEON, weights=(0.3, 0.7)),
    average("0.5 neon + 0.5 stencil", NEON, STENCIL),
    Line("slerp", "neon to stencil, t = 0.5", (NEON, STENCIL), "slerp", {"t": 0.5}),
    changes("add_difference", "stencil + (pixel - base)", STENCIL, PIXEL),
    changes("task_arithmetic", "base + 1.4 (neon - base)", NEON, **{"lambda": 1.4}),
    changes("ties", "neon, stencil; density 0.5", NEON, STENCIL, density=0.5),
    changes(
        "dare_ties",
        "neon, stencil; density 0.9, normalize",
        NEON,
        STENCIL,
        density=0.9,
        normalize=True,
    ),
    BLOCKS,
    Line(
        "by block",
        "neon, but all IN blocks of stencil",
        (NEON, STENCIL),
        "weighted_average",
        {"blocks": "BASE=0,IN*=1,OUT*=0"},
    ),
)


def merged(line: Line, folder: Path) -> str | Path:
    """Return what a row shows: a parent, or the file of the merge."""
    inputs = [str(folder / ref) if ref == PIXEL else ref for ref in line.inputs]
    if line.method is None:
        return inputs[0]
    out = folder / "merged.safetensors"
    memcard.merge(line.method, inputs, out=out, overwrite=True, **line.settings)
    return out


def grid(folder: Path) -> Sequence[Row]:
    """Make all pictures."""
    lora_bake(BASE, [("starter/lora_pixel", 1.0)], folder / PIXEL)
    return [
        Row(line.label, line.detail, memcard.generate(PROMPTS, merged(line, folder), seed=SEED))
        for line in LINES
    ]


def main() -> None:
    """Draw the grid and the report."""
    parser = argparse.ArgumentParser(description="Make the pictures of docs/merge.md.")
    parser.add_argument("out", type=Path, help="folder for merge_methods.webp, merge_report.png")
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as name:
        rows = grid(Path(name))
        report = merge_report(merged(BLOCKS, Path(name)), BLOCKS.inputs)
    draw_report(report, out / "merge_report.png")
    with replacing(out / "merge_methods.webp") as file:
        sheet(rows, PROMPTS, cell=CELL).save(file, "WEBP", quality=QUALITY, method=6)


if __name__ == "__main__":
    main()
