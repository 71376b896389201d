"""Build the starter from nothing but npm packages: pictures, training, derived files, score, sheet.

    python examples/starter/build.py --work DIR [--steps 7500] [--ranks 2] [--continue-shipped]

Every stage leaves its result in DIR and is skipped when that exists, so the command can be repeated
after an interruption; trainings go on from their last saves and end in the same bits. With
``--prove-resume`` each training is killed once at a random moment on the way. Nothing in the repository is
touched: the finished files are in ``DIR/starter``. The latent code, the tokenizer and the default VAE are fixed
parts of memcard-starter-v1 and are taken from the repository.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
from pathlib import Path

from derive import DERIVED
from export import SHIPPED
from killing import run, run_killed_once
from painter import read_painter
from pictures import draw_pictures, fetch_packages, read_objects, write_pictures
from safetensors import safe_open
from safetensors.torch import save_file
from training_run import run_folder, steps_done

HERE = Path(__file__).parent
# Weights that have settled need small steps, and small ones in the end.
GENTLY = ("--lr", 1e-3, "--adam-lr", 5e-4, "--decay-from", 0.3, "--final-lr", 0.02)


class Build:
    """Runs the scripts of this folder, one after the other.

    Args:
        work: folder of all results.
        kills: where random moments come from at which trainings are killed; None lets them be.
    """

    def __init__(self, work: Path, kills: random.Random | None = None) -> None:
        self.work, self.kills = work, kills

    def stage(self, script: str, *arguments: object, name: str | None = None) -> None:
        """Run one script and stop the build if it fails; ``name`` is that of its run, if it trains."""
        command = [sys.executable, HERE / script, "--work", self.work, *arguments]
        if name is not None and self.kills is not None:
            run_killed_once(command, run_folder(self.work, name), self.kills)
        else:
            run(command)


def draw(work: Path) -> None:
    """Fetch the packages and draw the pictures."""
    if not (work / "pictures.npz").is_file():
        modules = fetch_packages(work / "npm")
        write_pictures(work / "pictures.npz", draw_pictures(modules, read_objects()))


def train(build: Build, steps: int, ranks: int, *, go_on: bool) -> None:
    """Train the base until all steps are done."""
    work, options = build.work, list[object]()
    if go_on:
        if not (work / "init.safetensors").is_file():
            model = read_painter(SHIPPED / "base.safetensors").model
            save_file(dict(model.state_dict()), work / "init.safetensors")
        options = ["--init", work / "init.safetensors", *GENTLY]
        with safe_open(SHIPPED / "base.safetensors", "pt") as shipped:
            card = json.loads(shipped.metadata()["memcard.card"])
        (work / "earlier.json").write_text(json.dumps(card["training"]))
    if steps_done(run_folder(work, "base")) < steps:
        build.stage("train.py", "--steps", steps, "--ranks", ranks, *options, name="base")


def derive(build: Build, out: Path) -> None:
    """Train fine-tunes, LoRAs and the second decoder on the finished base."""
    base, done = out / "base.safetensors", build.work / "derived"
    for name in DERIVED:
        if not (done / f"{name}.json").is_file():
            build.stage("derive.py", "--base", base, "--name", name, name=name)
    if not (done / "vae_crisp.json").is_file():
        build.stage("crisp.py", "--base", base, name="vae_crisp")


def main() -> None:
    """Run all stages that have not been run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=7500)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--continue-shipped", action="store_true")
    parser.add_argument("--prove-resume", action="store_true")
    args = parser.parse_args()
    build = Build(args.work, random.Random() if args.prove_resume else None)
    out = args.work / "starter"
    out.mkdir(parents=True, exist_ok=True)
    shutil.copytree(SHIPPED / "config", out / "config", dirs_exist_ok=True)
    shutil.copy(SHIPPED / "NOTICE", out / "NOTICE")
    draw(args.work)
    train(build, args.steps, args.ranks, go_on=args.continue_shipped)
    build.stage("ship.py", "--out", out, "--force")
    derive(build, out)
    build.stage("ship.py", "--out", out, "--force")
    build.stage("score.py", "--model", out / "base.safetensors", "--all")
    run([sys.executable, HERE / "sheet.py", "--folder", out, "--out", args.work / "sheet.png"])


if __name__ == "__main__":
    main()
