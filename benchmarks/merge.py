"""Merge two Stable-Diffusion-1.5-sized fp16 files: memcard, its floor and naive torch, side by side.

    python benchmarks/merge.py [FOLDER]

Needs 7 GB in FOLDER (default: the temporary folder); leaves nothing. CPU seconds and peak memory are
those of a process of its own; wall time means something on a quiet machine only. Peak memory is VmHWM.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

# Shape, how often. 1,021,530,112 values: the parts of a Stable Diffusion 1.5 file in
# true sizes; names do not matter to the work.
PARTS = [
    ((49408, 768), 1), ((1280, 2560, 3, 3), 6), ((1280, 1280, 3, 3), 22), ((10240, 1280), 6),
    ((1280, 5120), 6), ((1280, 1280), 60), ((640, 640, 3, 3), 12), ((5120, 640), 5),
    ((640, 1280, 3, 3), 4), ((640, 640), 50), ((768, 768), 48), ((3072, 768), 24),
    ((320, 320, 3, 3), 14), ((320, 320), 50), ((512, 512, 3, 3), 22), ((1280,), 300), ((640,), 200),
]  # fmt: skip

MERGE = """
from memcard.jobs.merge import merge
merge("weighted_average", [A, B], weights=[0.7, 0.3], out=OUT, digests=DIGESTS, threads=THREADS)
"""
FLOOR = """
import subprocess
subprocess.run(f"cat {A} > /dev/null; cat {B} > {OUT}", shell=True, check=True)
"""
NAIVE = """
from safetensors.torch import load_file, save_file
a, b = load_file(A), load_file(B)
save_file({n: (0.7 * a[n].float() + 0.3 * b[n].float()).to(a[n].dtype) for n in a}, OUT)
"""
REPORT = """
import json, os, re
from pathlib import Path
t = os.times()
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
print(json.dumps({"cpu": t.user + t.system + t.children_user + t.children_system, "mb": peak / 1024}))
"""


def make(path: Path, seed: int, near: Path | None = None) -> int:
    """Write one file; with ``near``, a fine-tune of it: the same values plus N(0, 0.002)."""
    rng = np.random.default_rng(seed)
    shapes = {f"{i}.{n}": s for i, (s, count) in enumerate(PARTS) for n in range(count)}
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    noise = (rng.standard_normal(1 << 22, dtype=np.float32) * 0.002).astype("f2")
    values = (rng.standard_normal(1 << 22, dtype=np.float32) * 0.03).astype("f2")
    values = values + noise if near else values
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for at in range(0, end, values.nbytes):
            file.write(values.tobytes()[: end - at])
    return end


def measure(code: str, out: Path, **values: object) -> dict[str, float]:
    """Run code in a process of its own; the result file is removed, as it would fill the disk."""
    setup = "".join(f"{name} = {value!r}\n" for name, value in values.items())
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", f"{setup}OUT = {str(out)!r}\n{code}\n{REPORT}"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    wall = time.perf_counter() - start
    out.unlink()
    return {**json.loads(done.stdout), "wall": wall}


def main() -> None:
    """Print the table."""
    folder = Path(tempfile.mkdtemp(dir=sys.argv[1] if len(sys.argv) > 1 else None))
    try:
        a, b, out = (folder / f"{name}.safetensors" for name in ("a", "b", "out"))
        size = make(a, 1)
        make(b, 1, near=a)
        given = {"A": str(a), "B": str(b)}
        runs = {
            "floor: cat A >/dev/null; cat B >out": (FLOOR, {}),
            "memcard, 1 thread, no digests": (MERGE, {"DIGESTS": False, "THREADS": 1}),
            "memcard, 2 threads, no digests": (MERGE, {"DIGESTS": False, "THREADS": 2}),
            "memcard, 2 threads, inputs hashed (default)": (MERGE, {"DIGESTS": True, "THREADS": 2}),
            "naive torch (load, average in fp32, save)": (NAIVE, {}),
        }
        print(f"{platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
        print(f"0.7 A + 0.3 B, fp16, {size / 1e9:.2f} GB each\n")
        print("| run | CPU s | wall s | peak MB |\n|---|---|---|---|")
        for name, (code, more) in runs.items():
            found = measure(code, out, **given, **more)
            row = f"{found['cpu']:.1f} | {found['wall']:.1f} | {found['mb']:.0f}"
            print(f"| {name} | {row} |", flush=True)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
