"""Score a starter: is the real picture nearest to "STYLE of a OBJECT" one of that object, that style?

Every generated picture (CFG 3, 20 steps, fixed seeds) is compared with all real pictures by colours at
two scales, edge directions and local contrast. The same measure is first applied to the real pictures,
shifted and blurred, which shows how far it can be trusted.

    python score.py --work DIR --model base.safetensors [--all]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from captions import article
from painter import Painter, read_painter
from pictures import STYLES, Pictures, composite, read_held_out, read_pictures
from torch import Tensor
from torch.nn import functional

COMMON = (
    "dog face",
    "cat face",
    "lion",
    "penguin",
    "octopus",
    "butterfly",
    "red apple",
    "banana",
    "pizza",
    "hamburger",
    "strawberry",
    "birthday cake",
    "rocket",
    "automobile",
    "house",
    "sailboat",
    "guitar",
    "robot",
    "ghost",
    "skull",
    "crown",
    "snowman",
    "rose",
    "red heart",
)
Pair = tuple[str, str]


def features(pictures: Tensor) -> Tensor:
    """Return ``[n, f]``: colours at 16x16 and 4x4, and 8x8 cells of edges and contrast.

    Each of the four blocks has length 1, so none outweighs the others.
    """
    grey = pictures.mean(dim=1, keepdim=True)
    dx = functional.pad(grey[..., 1:] - grey[..., :-1], (0, 1))
    dy = functional.pad(grey[..., 1:, :] - grey[..., :-1, :], (0, 0, 0, 1))
    size, angle = (dx**2 + dy**2).sqrt(), torch.atan2(dy, dx)
    bins = ((angle / torch.pi + 1) * 4).long().clamp(0, 7) % 4  # edges without sign
    edges = torch.cat([size * (bins == k) for k in range(4)], dim=1)
    blur = functional.avg_pool2d(functional.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, 1)
    blocks = (
        functional.avg_pool2d(pictures, 4),
        functional.avg_pool2d(pictures, 16),
        functional.avg_pool2d(edges, 8).sqrt(),
        functional.avg_pool2d((pictures - blur).abs(), 8).sqrt(),
    )
    return torch.cat(
        [functional.normalize(b.flatten(1) - b.flatten(1).mean(), dim=1) for b in blocks], 1
    )


class Judge:
    """Knows all real pictures on white and names the nearest."""

    def __init__(self, pictures: Pictures) -> None:
        pairs = list(zip(pictures.objects, pictures.styles, strict=True))
        rows = [i for i, (_, style) in enumerate(pairs) if style in STYLES]
        self.pairs = [pairs[i] for i in rows]
        white = composite(pictures.rgba[rows], (255, 255, 255))
        self.real = torch.from_numpy(white) / 2 + 0.5
        self.known = features(self.real)

    def name(self, pictures: Tensor) -> list[Pair]:
        """Return object and style of the nearest real picture of each."""
        nearest = torch.cdist(features(pictures), self.known).argmin(dim=1).tolist()
        return [self.pairs[i] for i in nearest]

    def distance(self, pictures: Tensor, pairs: list[Pair]) -> float:
        """Return the mean absolute difference to the real pictures of these pairs; values are 0..1."""
        rows = [self.pairs.index(pair) for pair in pairs]
        return round((pictures - self.real[rows]).abs().mean().item(), 5)

    def sanity(self) -> dict[str, float]:
        """Score the real pictures, shifted by one pixel, blurred and with noise."""
        noise = torch.randn(self.real.shape, generator=torch.Generator().manual_seed(0))
        moved = torch.roll(self.real, (1, 1), (2, 3))
        soft = functional.avg_pool2d(functional.pad(moved, (1, 1, 1, 1), mode="replicate"), 3, 1)
        return accuracy(self.name((soft + 0.04 * noise).clamp(0, 1)), self.pairs)


def accuracy(got: list[Pair], wanted: list[Pair]) -> dict[str, float]:
    """Return the shares of right object, right style and both."""
    both = list(zip(got, wanted, strict=True))
    n = len(both)
    return {
        "object": round(sum(g[0] == w[0] for g, w in both) / n, 4),
        "style": round(sum(g[1] == w[1] for g, w in both) / n, 4),
        "both": round(sum(g == w for g, w in both) / n, 4),
        "pictures": n,
    }


def paint(painter: Painter, pairs: list[Pair]) -> Tensor:
    """Generate one picture per pair."""
    return painter.paint([f"{style} of {article(thing)}{thing.lower()}" for thing, style in pairs])


def answers(painter: Painter, judge: Judge, pairs: list[Pair]) -> list[Pair]:
    """Generate one picture per pair and name what each shows."""
    return judge.name(paint(painter, pairs))


def report(painter: Painter, known: Pictures, *, everything: bool) -> dict[str, dict]:
    """Score the common objects, the held-out pairs and, if asked, every trained pair."""
    judge, held = Judge(known), sorted(read_held_out())
    common = [(o, s) for s in STYLES for o in COMMON]
    got = answers(painter, judge, common)
    parts = {"real pictures, disturbed": judge.sanity(), "24 common objects": accuracy(got, common)}
    for k, style in enumerate(STYLES):
        rows = slice(k * len(COMMON), (k + 1) * len(COMMON))
        parts[f"24 common objects, {style}"] = accuracy(got[rows], common[rows])
    parts["held-out pairs"] = accuracy(answers(painter, judge, held), held)
    if everything:
        rest = [p for p in judge.pairs if p not in held]
        pictures = paint(painter, rest)
        parts["all trained pairs"] = accuracy(judge.name(pictures), rest)
        parts["all trained pairs"]["difference to the real ones"] = judge.distance(pictures, rest)
    return parts


def main() -> None:
    """Print the scores as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--overlay", type=Path, action="append", default=[])
    parser.add_argument("--all", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    painter = read_painter(args.model, *args.overlay)
    pictures = read_pictures(args.work / "pictures.npz")
    print(json.dumps(report(painter, pictures, everything=args.all), indent=2))


if __name__ == "__main__":
    main()
