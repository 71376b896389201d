"""Listing and converting a .ckpt, beside torch, and beside a plain copy as the floor.

    python benchmarks/convert.py [--gb 2] [--rounds 3] [--folder DIR]

Every job is a process of its own, start-up included; the order changes with each round; the page
cache is warm. memcard syncs what it writes before it says so, cp and torch do not: hence two floors.
Peak RSS is the kernel's figure for that process (it counts mapped file pages).
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIST = "from memcard.formats import open_file; c = open_file('{src}'); assert len(c.specs) > 1"
CONVERT = "import memcard; memcard.convert('{src}', '{dst}', overwrite=True)"
TORCH = "import torch; d = torch.load('{src}', weights_only=True, mmap={mmap})['state_dict']"
SAVE = "; from safetensors.torch import save_file; save_file(d, '{dst}')"
JOBS = {
    "list: memcard": [sys.executable, "-c", LIST],
    "list: torch.load(mmap=True)": [sys.executable, "-c", TORCH.replace("{mmap}", "True")],
    "floor: cp --reflink=never": ["cp", "--reflink=never", "{src}", "{dst}"],
    "floor: the same, then sync": [
        *("sh", "-c", "cp --reflink=never '{src}' '{dst}' && sync '{dst}'")
    ],
    "to safetensors: memcard": [sys.executable, "-c", CONVERT],
    "to safetensors: torch + save_file": [
        *(sys.executable, "-c", TORCH.replace("{mmap}", "True") + SAVE)
    ],
    "to ckpt: memcard": [
        *(sys.executable, "-c", CONVERT.replace("{src}", "{st}").replace("{dst}", "{ckpt}"))
    ],
}
MAKE = """
import sys, torch
torch.manual_seed(0)
left, made, i = float(sys.argv[2]) * 1e9, {}, 0
while left > 0:
    shape = (1280, 1280, 3, 3) if i % 4 == 0 else (1280, 1280) if i % 4 < 3 else (1280,)
    made[f"model.diffusion_model.block.{i}.weight"] = torch.randn(shape).half()
    left, i = left - made[f"model.diffusion_model.block.{i}.weight"].nbytes, i + 1
torch.save({"state_dict": made, "epoch": 1, "global_step": 1000}, sys.argv[1])
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gb", type=float, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()) / "memcard-bench"
    )
    options = parser.parse_args()
    options.folder.mkdir(exist_ok=True)
    try:
        measure(options.folder, options.gb, options.rounds)
    finally:
        shutil.rmtree(options.folder)


def measure(folder: Path, gb: float, rounds: int) -> None:
    names = {
        "src": "model.ckpt",
        "dst": "out.safetensors",
        "st": "in.safetensors",
        "ckpt": "b.ckpt",
    }
    files = {key: str(folder / name) for key, name in names.items()}
    subprocess.run([sys.executable, "-c", MAKE, files["src"], str(gb)], check=True)
    run(["cp", files["src"], os.devnull])
    run([sys.executable, "-c", CONVERT.format(**files | {"dst": files["st"]})])
    found: dict[str, list[tuple[float, float]]] = {job: [] for job in JOBS}
    for i in range(rounds):
        order = list(JOBS)[i % len(JOBS) :] + list(JOBS)[: i % len(JOBS)]
        for job in order:
            for key in ("dst", "ckpt"):
                Path(files[key]).unlink(missing_ok=True)
            os.sync()  # the last job's dirty pages must not be this one's wait
            found[job].append(run([part.format(**files) for part in JOBS[job]]))
    report(found, Path(files["src"]).stat().st_size)


def run(command: list[str]) -> tuple[float, float]:
    """Return wall seconds and peak RSS in MiB."""
    start = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def report(found: dict[str, list[tuple[float, float]]], size: int) -> None:
    floor = statistics.median(wall for wall, _ in found["floor: cp --reflink=never"])
    print(f"{size / 1e9:.2f} GB .ckpt, {len(next(iter(found.values())))} rounds, "
          f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.system()}")  # fmt: skip
    print(f"{'job':36} {'median s':>9} {'best s':>8} {'x cp':>6} {'peak MiB':>9}")
    for job, runs in found.items():
        walls = [wall for wall, _ in runs]
        median = statistics.median(walls)
        peak = max(rss for _, rss in runs)
        print(f"{job:36} {median:9.2f} {min(walls):8.2f} {median / floor:6.2f} {peak:9.0f}")


if __name__ == "__main__":
    main()
