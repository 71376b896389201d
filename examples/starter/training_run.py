"""Where the trainings of the starter keep their runs, and how their saves are read.

Runs and saves lie in a library of the working folder, so ``MEMCARD_HOME=DIR/library memcard runs`` shows them
and the user's own library stays as it is.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from memcard.training.run_log import read_log
from memcard.training.saves import Save, listed, numbered, sound

AVERAGE = "average"  # name of the EMA in the saves
LAST = 200  # steps whose mean is called the loss of a training


class Cost:
    """What a training has cost so far; saved with it, so that an interruption loses none of it."""

    def __init__(self) -> None:
        self.samples, self.cpu, self.seconds = 0, 0.0, 0.0
        self._clocks, self._losses = (time.process_time(), time.monotonic()), []

    def __str__(self) -> str:
        mean = sum(self._losses) / len(self._losses)
        return f"{self.seconds:.0f}s loss {mean:.4f}"

    def add(self, samples: int, ranks: int, loss: float) -> None:
        """Count a step of ``samples`` on each rank, and the time since the last call."""
        self._losses = [*self._losses[-99:], loss]
        before, self._clocks = self._clocks, (time.process_time(), time.monotonic())
        self.samples += samples * ranks
        self.cpu += ranks * (self._clocks[0] - before[0])
        self.seconds += self._clocks[1] - before[1]

    def metrics(self) -> dict[str, float]:
        """Return what the log of the run keeps of each step."""
        loss = self._losses[-1]
        return {"loss": loss, "samples": self.samples, "cpu_minutes": round(self.cpu / 60, 3)}

    def state_dict(self) -> dict[str, Any]:
        """Return the three numbers."""
        return {"samples": self.samples, "cpu": self.cpu, "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on counting from a save."""
        vars(self).update(state)


def settle(work: Path, seed: int) -> None:
    """Compute on one thread, seed all generators, and put the library into the working folder."""
    random.seed(seed)  # nothing here draws from these two, but they are in every save
    np.random.seed(seed)
    torch.manual_seed(seed)
    os.environ.setdefault("MEMCARD_HOME", str(work.absolute() / "library"))
    torch.set_flush_denormal(True)  # denormals made some CPU steps six times slower
    torch.set_num_threads(1)


def run_folder(work: Path, name: str) -> Path:
    """Return the folder of a run."""
    return work / "library" / "runs" / name


def newest(folder: Path) -> Save:
    """Return the newest save of a run that is whole.

    Raises:
        SystemExit: there is none.
    """
    found = sound(listed(folder))
    if not found:
        raise SystemExit(f"{folder}: has no save. Train first.")
    return found[-1]


def steps_done(folder: Path) -> int:
    """Return the step of the newest save of a run; 0 if there is none."""
    return max((step for step, _ in numbered(folder)), default=0)


def read_tensors(path: Path, prefix: str) -> dict[str, Tensor]:
    """Read the tensors of a save whose names begin with ``prefix``, without it."""
    tensors = load_file(path)
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def facts_of(folder: Path) -> dict[str, Any]:
    """Return steps, samples, CPU minutes and loss of a run up to its newest save."""
    step = newest(folder).step
    points = [point.metrics for point in read_log(folder) if point.step <= step]
    losses = [point["loss"] for point in points[-LAST:]]
    return {
        "steps": step,
        "samples": round(points[-1]["samples"]),
        "cpu_minutes": round(points[-1]["cpu_minutes"], 1),
        "loss": round(sum(losses) / len(losses), 4),
    }
