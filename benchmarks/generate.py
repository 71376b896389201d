"""What `memcard generate` costs: a full-size SD 1.5 file of either format, and the starter from cold.

    python benchmarks/generate.py [--steps 2] [--size 256x256] [--rounds 3] [--folder DIR]

The weights are random fp16 under the real names (2.1 GB a file, one at a time, removed afterwards):
the picture is noise, the work is the real one. Every run is a process of its own, start-up included,
told to stay offline. Peak RSS is the kernel's figure for that process.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from fixtures.sd15 import FULL, write_ckpt, write_safetensors  # noqa: E402 - not a package

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
WRITERS = {"model.safetensors": write_safetensors, "model.ckpt": write_ckpt}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--size", default="256x256")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    print(
        f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.system()}, "
        f"load {os.getloadavg()[0]:.1f}"
    )
    print(f"{'job':34} {'load s':>8} {'s/step':>8} {'wall s':>8} {'CPU s':>8} {'peak MiB':>9}")
    folder = Path(tempfile.mkdtemp(prefix="memcard-bench-", dir=options.folder))
    try:
        starter(folder, options.rounds)
        for name, write in WRITERS.items():
            write(folder / name, FULL)
            job = ["-c", str(folder / name), "--size", options.size, "--steps", str(options.steps)]
            report(f"{name}, {options.size}, {options.steps} steps", [run(folder, job)])
            (folder / name).unlink()
    finally:
        shutil.rmtree(folder)


def starter(folder: Path, rounds: int) -> None:
    report(f"starter, median of {rounds}", [run(folder, []) for _ in range(rounds)])


def run(folder: Path, more: list[str]) -> tuple[float, float, float, float, float]:
    """Return seconds to load, per step, in all; CPU seconds; peak RSS in MiB."""
    command = [sys.executable, "-m", "memcard", "generate", "a red apple", "--seed", "1", "--json"]
    command += ["-o", str(folder / "out.png"), *more]
    environment = {**os.environ, **OFFLINE, "PYTHONPATH": str(ROOT / "src"), "HOME": str(folder)}
    start = time.perf_counter()
    with (folder / "out.json").open("w+b") as out:
        process = subprocess.Popen(command, stdout=out, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{command} ended with {process.returncode}")
        out.seek(0)
        facts = json.load(out)
    # per step: everything after loading, text encoder and VAE included
    step = (facts["seconds"] - facts["load_seconds"]) / facts["settings"]["steps"]
    cpu = usage.ru_utime + usage.ru_stime
    return facts["load_seconds"], step, wall, cpu, usage.ru_maxrss / 1024


def report(job: str, runs: list[tuple[float, float, float, float, float]]) -> None:
    load, step, wall, cpu, peak = (statistics.median(column) for column in zip(*runs, strict=True))
    print(f"{job:34} {load:8.2f} {step:8.2f} {wall:8.2f} {cpu:8.2f} {peak:9.0f}", flush=True)


if __name__ == "__main__":
    main()
