"""Kill a training inside its saves, many times, and print what it lost. Exit 1 if a resume failed.

python scripts/kill_trials.py [TRIALS] [SEED]

Each trial resumes what the one before left, saves at every step, and is ended by SIGKILL at a random time
within a save. Every tensor of the state is filled with the number of the step, so a state of two steps shows.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

PROGRAM = Path(__file__).parent.parent / "tests" / "faults" / "training_killed.py"


def main(trials: int = 200, seed: int = 0) -> int:
    """Run the trials; return the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, PROGRAM, "random", str(trials), folder, str(seed)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603
    found = json.loads(done.stdout)
    faults = found.pop("faults")
    for name, number in found.items():
        print(f"{name:16} {number:>6}")
    print(f"{'faults':16} {len(faults):>6}")
    for fault in faults:
        print(f"  {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
