"""Build the starter from nothing but npm packages: pictures, training, derived files, score, sheet.

    python examples/starter/build.py --work DIR [--minutes 90] [--ranks 2] [--continue-shipped]

Every stage leaves its result in DIR and is skipped when that exists, so the command can be repeated
after an interruption; training goes on from its last state. Nothing in the repository is touched: the
finished files are in ``DIR/starter``. The latent code, the tokenizer and the default VAE are fixed
parts of memcard-starter-v1 and are taken from the repository.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

from derive import SHORT
from export import SHIPPED
from painter import read_painter
from pictures import draw_pictures, fetch_packages, read_objects, write_pictures
from safetensors import safe_open
from safetensors.torch import save_file

HERE = Path(__file__).parent
DERIVED = (  # look, kind, learning rate, batch
    ("black stencil", "finetune", 1.5e-3, 48),
    ("neon glow", "finetune", 1.5e-3, 48),
    ("blueprint", "lora", 5e-3, 32),
    ("pixel art", "lora", 5e-3, 32),
)


def stage(script: str, *arguments: object) -> None:
    """Run one script of this folder and stop the build if it fails."""
    command = [sys.executable, str(HERE / script), *map(str, arguments)]
    print("+", *command[1:], file=sys.stderr, flush=True)
    subprocess.run(command, check=True)


def draw(work: Path) -> None:
    """Fetch the packages and draw the pictures."""
    if not (work / "pictures.npz").is_file():
        modules = fetch_packages(work / "npm")
        write_pictures(work / "pictures.npz", draw_pictures(modules, read_objects()))


def train(work: Path, minutes: float, ranks: int, *, go_on: bool) -> None:
    """Train the base until it has had its minutes."""
    options: list[object] = []
    if go_on:
        model = read_painter(SHIPPED / "base.safetensors").model
        save_file(dict(model.state_dict()), work / "init.safetensors")
        options = ["--init", work / "init.safetensors"]
        with safe_open(SHIPPED / "base.safetensors", "pt") as shipped:
            card = json.loads(shipped.metadata()["memcard.card"])
        (work / "earlier.json").write_text(json.dumps(card["training"]))
    state = work / "state.json"
    if not state.is_file() or json.loads(state.read_text())["seconds"] < 60 * minutes:
        stage("train.py", "--work", work, "--minutes", minutes, "--ranks", ranks, *options)


def derive(work: Path, out: Path, minutes: float) -> None:
    """Train fine-tunes, LoRAs and the second decoder on the finished base."""
    base = out / "base.safetensors"
    for look, kind, lr, batch in DERIVED:
        if not (work / f"derived/{kind}_{SHORT[look]}.json").is_file():
            options = ("--look", look, "--kind", kind, "--lr", lr, "--batch", batch)
            stage("derive.py", "--work", work, "--base", base, "--minutes", minutes, *options)
    if not (work / "derived/vae_crisp.json").is_file():
        stage("crisp.py", "--work", work, "--base", base, "--minutes", minutes)


def main() -> None:
    """Run all stages that have not been run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=90.0)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--derive-minutes", type=float, default=6.0)
    parser.add_argument("--continue-shipped", action="store_true")
    args = parser.parse_args()
    out = args.work / "starter"
    out.mkdir(parents=True, exist_ok=True)
    shutil.copytree(SHIPPED / "config", out / "config", dirs_exist_ok=True)
    shutil.copy(SHIPPED / "NOTICE", out / "NOTICE")
    draw(args.work)
    train(args.work, args.minutes, args.ranks, go_on=args.continue_shipped)
    stage("ship.py", "--work", args.work, "--out", out, "--force")
    derive(args.work, out, args.derive_minutes)
    stage("ship.py", "--work", args.work, "--out", out, "--force")
    stage("score.py", "--work", args.work, "--model", out / "base.safetensors", "--all")
    stage("sheet.py", "--folder", out, "--out", args.work / "sheet.png")


if __name__ == "__main__":
    main()
