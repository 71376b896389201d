"""Kill trainings at random moments, start them again, and compare what they end in.

SIGKILL gives a process no chance to save or to clean up: what a training loses by it, it would lose by a power
cut.

    python killing.py --work DIR [--steps 40] [--ranks 2] [--kills 2]

trains UNet and text encoder for a few steps, once undisturbed and once killed ``--kills`` times, and ends with
an error unless every tensor of both last saves (weights, averages, moments, random numbers) is the same.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from training_run import newest, run_folder, steps_done

from memcard.training.run_log import read_log
from memcard.training.saves import OpenSave, numbered

HERE = Path(__file__).parent
LATE = 20.0  # seconds after a save within which a kill comes


def run(command: Sequence[object]) -> None:
    """Run a command and end the build if it fails."""
    words = list(map(str, command))
    print("+", *words[1:], file=sys.stderr, flush=True)
    subprocess.run(words, check=True)


def kill(command: Sequence[object], folder: Path, seconds: float) -> bool:
    """Run a training and kill it with all its processes some seconds after its next save.

    Returns:
        Whether it was killed; False if it was done before.
    """
    before = numbered(folder)
    process = subprocess.Popen(list(map(str, command)), start_new_session=True)
    while process.poll() is None and numbered(folder) == before:
        time.sleep(0.1)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    how = "killed" if process.returncode == -signal.SIGKILL else "done"
    print(
        f"{how}: {folder.name}, last save of step {steps_done(folder)}", file=sys.stderr, flush=True
    )
    return how == "killed"


def run_killed_once(command: Sequence[object], folder: Path, chance: random.Random) -> None:
    """Run a training, kill it at a random moment behind a save, and run it again to its end."""
    kill(command, folder, chance.uniform(0, LATE))
    run(command)


def differences(one: Path, other: Path) -> list[str]:
    """Return the names of the tensors that differ between the newest saves of two runs."""
    with OpenSave(newest(one).path) as a, OpenSave(newest(other).path) as b:
        a.verify()
        b.verify()
        names = sorted({*a.digests, *b.digests})
        steps = [] if a.save.step == b.save.step else ["the step"]
        return steps + [n for n in names if a.digests.get(n) != b.digests.get(n)]


def prove(work: Path, steps: int, ranks: int, kills: int, seed: int) -> str:
    """Train twice and compare; return what was found equal.

    Raises:
        SystemExit: something differs.
    """
    chance, folders, commands = random.Random(seed), [], []
    options = ("--steps", steps, "--ranks", ranks, "--batch", 16, "--save-every", 3)
    for name in ("undisturbed", "killed"):
        place = work / name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        shutil.copy(work / "pictures.npz", place)
        folders.append(run_folder(place, "base"))
        commands.append([sys.executable, HERE / "train.py", "--work", place, *options])
    plain, killed = commands
    run(plain)
    points = read_log(folders[0])
    span = (points[-1].time - points[0].time) / (kills + 1)
    hits = sum(kill(killed, folders[1], chance.uniform(0, span)) for _ in range(kills))
    run(killed)
    if found := differences(*folders):
        raise SystemExit(f"{len(found)} tensors differ, the first are {', '.join(found[:5])}.")
    with OpenSave(newest(folders[0]).path) as save:
        count = len(save.digests)
    return f"killed {hits} times, resumed: all {count} tensors of step {steps} are the same."


def main() -> None:
    """Read the command line and prove it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    args = parser.parse_args()
    print(prove(args.work, args.steps, args.ranks, args.kills, args.seed))


if __name__ == "__main__":
    main()
