"""Merge Stable-Diffusion-1.5-sized fp16 files: memcard, its floor and other programs, side by side.

    python benchmarks/merge.py [FOLDER] [--mergekit PYTHON] [--limit SECONDS] [--runs N] [--sdxl] [--ours]

Needs 11 GB in FOLDER (default: the temporary folder), 23 GB with ``--sdxl``; leaves nothing. The files have
the names and shapes of Stable Diffusion 1.5. CPU seconds and peak memory are those of a process of its own;
wall time means something on a quiet machine only. Peak memory is VmHWM. The floors and memcard run N times,
the median counts; the others, which are slow, run once. What takes longer than the limit is stopped: its
figures are then lower bounds, marked with ≥. mergekit has requirements of its own; name the interpreter it
is installed for.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

MERGE = """
from memcard.jobs.merge import merge
merge(METHOD, [A, B, *MORE], out=OUT, digests=DIGESTS, threads=THREADS, **PARAMS)
"""
EMA = """
from memcard.jobs.merge import merge
merge("weighted_average", [A, B, C], weights=[0.6, 0.6, -0.2], normalize=False, out=OUT, digests=False, threads=2)
"""
FLOOR = """
import subprocess
subprocess.run(f"cat {READ} > /dev/null; cat {B} > {OUT}{SYNC}", shell=True, check=True)
"""
NAIVE = """
from safetensors.torch import load_file, save_file
a, b = load_file(A), load_file(B)
save_file({n: (0.7 * a[n].float() + 0.3 * b[n].float()).to(a[n].dtype) for n in a}, OUT)
"""
MECHA = """
import sd_mecha, torch
recipe = sd_mecha.weighted_sum(sd_mecha.model(A), sd_mecha.model(B), alpha=0.3)
sd_mecha.merge(recipe, merge_dtype=torch.float32, output_dtype=torch.float16, output=OUT)
"""
MERGEKIT = """
import json, sys
from pathlib import Path
Path(OUT + ".yml").write_text(json.dumps(CONFIG))
sys.argv = ["mergekit-pytorch", OUT + ".yml", OUT, "--quiet"]
from mergekit.scripts.merge_raw_pytorch import main
try:
    main()
except SystemExit:
    pass
"""


@dataclass(frozen=True)
class Run:
    """One row of the table."""

    title: str
    code: str
    values: dict[str, object] = field(default_factory=dict)
    python: str = sys.executable
    peer: bool = False


def sd15() -> dict[str, tuple[int, ...]]:
    """List the tensors of Stable Diffusion 1.5."""
    from fixtures.sd15 import FULL, shapes

    return shapes(FULL)


def sdxl() -> dict[str, tuple[int, ...]]:
    """List the tensors of Stable Diffusion XL, 6.9 GB."""
    from fixtures.published import published

    return published("sdxl-sgm")


def make(
    path: Path, seed: int, near: bool = False, shapes: dict[str, tuple[int, ...]] | None = None
) -> int:
    """Write one file; with ``near``, a fine-tune of the one of seed 1: its values plus N(0, 0.002)."""
    shapes = shapes or sd15()
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    values = np.random.default_rng(1).standard_normal(1 << 22, dtype=np.float32) * 0.03
    if near:
        noise = np.random.default_rng(seed).standard_normal(1 << 22, dtype=np.float32)
        values = values + noise * np.float32(0.002)
    data = values.astype("f2").tobytes()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for at in range(0, end, len(data)):
            file.write(data[: end - at])
    return end


def measure(run: Run, out: Path, limit: float, shared: dict[str, str]) -> dict[str, float | bool]:
    """Run code in a process of its own, with the result left in ``out``."""
    setup = "".join(f"{name} = {value!r}\n" for name, value in {**shared, **run.values}.items())
    code = f"{setup}OUT = {str(out)!r}\n{run.code}\nprint('done', flush=True)\ninput()"
    start = time.perf_counter()
    process = subprocess.Popen(
        [run.python, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path) if run.python == sys.executable else "",
        },
    )
    done = waited(process, limit)
    wall = time.perf_counter() - start
    found = {**state_of(process.pid), "wall": wall, "cut": not done}
    process.kill()
    _, errors = process.communicate()
    if not done and wall < limit:
        raise RuntimeError(f"{run.title}: {errors[-2000:]}")
    return found


def waited(process: subprocess.Popen[str], limit: float) -> bool:
    """Wait for the word of the process that it is done; False if the time is up, or it ended."""
    import selectors

    assert process.stdout is not None  # noqa: S101
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        until = time.perf_counter() + limit
        while (left := until - time.perf_counter()) > 0 and selector.select(left):
            line = process.stdout.readline()
            if line == "done\n":
                return True
            if not line:
                return False
    return False


def state_of(pid: int) -> dict[str, float]:
    """Return CPU seconds (with those of ended children) and the peak memory of a living process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    cpu = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return {"cpu": cpu, "mb": int(peak[1]) / 1024 if peak else 0.0}


def exactness(a: Path, b: Path, out: Path) -> str:
    """Compare a sample of ``out`` with 0.7 A + 0.3 B in float64, rounded once."""
    count, step = 1 << 20, 97
    views = []
    for path in (a, b, out):
        raw = np.memmap(path, np.uint8, "r")
        start = 8 + int.from_bytes(raw[:8].tobytes(), "little")
        views.append(raw[start:].view("<f2")[::step][: 10 * count])
    right = (0.7 * views[0].astype("f8") + 0.3 * views[1].astype("f8")).astype("f2")
    ulps = np.abs(right.view("i2").astype("i4") - views[2].view("<i2").astype("i4"))
    return f"{len(right)} of the values compared: {np.mean(ulps == 0):.4%} equal, at most {ulps.max()} ulp"


def mergekit_run(title: str, python: str, method: str, files: list[str], **more: object) -> Run:
    """Return a run of mergekit-pytorch."""
    weights = dict(zip(files, (0.7, 0.3), strict=False))
    models = [{"model": f, "parameters": {"weight": w, **more}} for f, w in weights.items()]
    config: dict[str, object] = {"merge_method": method, "models": models}
    if method == "ties":
        config["base_model"] = files[-1]
        config["models"] = [{**m, "parameters": {"weight": 1.0, **more}} for m in models]
    return Run(title, MERGEKIT, {"CONFIG": config}, python, peer=True)


def runs(a: str, b: str, c: str, out: str, mergekit: str | None) -> list[Run]:
    """List the rows."""
    linear = {"METHOD": "weighted_average", "PARAMS": {"weights": [0.7, 0.3]}, "MORE": []}
    ties = {"METHOD": "ties", "PARAMS": {"base": c, "density": 0.2}, "MORE": []}
    plain = {"DIGESTS": False, "THREADS": 2}
    rows = [
        Run("floor: cat A >/dev/null; cat B >out", FLOOR, {"READ": a, "SYNC": ""}),
        Run(
            "the same, then sync out, as memcard does", FLOOR, {"READ": a, "SYNC": f"; sync {out}"}
        ),
        Run(
            "**0.7 A + 0.3 B**, 1 thread, inputs not hashed",
            MERGE,
            {**linear, **plain, "THREADS": 1},
        ),
        Run("2 threads, inputs not hashed", MERGE, {**linear, **plain}),
        Run("2 threads, inputs hashed (default)", MERGE, {**linear, **plain, "DIGESTS": True}),
        Run("naive torch (load, average in fp32, save)", NAIVE, peer=True),
        Run("sd-mecha weighted_sum", MECHA, peer=True),
        Run("floor: cat A B C >/dev/null; cat B >out", FLOOR, {"READ": f"{a} {b} {c}", "SYNC": ""}),
        Run("the same, then sync out", FLOOR, {"READ": f"{a} {b} {c}", "SYNC": f"; sync {out}"}),
        Run("**EMA from 3 snapshots** (0.6, 0.6, -0.2)", EMA, {"C": c}),
        Run("**TIES of 2 fine-tunes**, density 0.2", MERGE, {**ties, **plain}),
    ]
    if mergekit:
        rows.insert(7, mergekit_run("mergekit-pytorch linear", mergekit, "linear", [a, b]))
        rows.append(mergekit_run("mergekit-pytorch ties", mergekit, "ties", [a, b, c], density=0.2))
    return rows


def row(run: Run, out: Path, given: argparse.Namespace, files: dict[str, str]) -> str:
    """Run one row as often as asked; return its line of the table."""
    found = []
    for _ in range(1 if run.peer else given.runs):
        remove(out)
        try:
            found.append(measure(run, out, given.limit, files))
        except RuntimeError as error:
            return f"| {run.title} | failed: {str(error)[-300:]!r} | | |"
    mark = "≥ " if found[0]["cut"] else ""
    cells = [
        f"{mark}{statistics.median(f[key] for f in found):.{digits}f}"
        for key, digits in (("cpu", 1), ("wall", 1), ("mb", 0))
    ]
    return f"| {run.title} | {' | '.join(cells)} |"


def remove(out: Path) -> None:
    """Remove what a run left."""
    if out.is_dir():
        shutil.rmtree(out)
    out.unlink(missing_ok=True)


def large(folder: Path, given: argparse.Namespace) -> None:
    """Merge two files of the size of Stable Diffusion XL: memory must not grow with them."""
    a, b, out = (folder / f"{name}.safetensors" for name in ("a", "b", "out"))
    size = make(a, 2, near=True, shapes=sdxl())
    make(b, 3, near=True, shapes=sdxl())
    linear = {"METHOD": "weighted_average", "PARAMS": {"weights": [0.7, 0.3]}, "MORE": []}
    title = f"0.7 A + 0.3 B of {size / 1e9:.1f} GB files, 2 threads"
    run = Run(title, MERGE, {**linear, "DIGESTS": False, "THREADS": 2}, peer=True)
    print(row(run, out, given, {"A": str(a), "B": str(b)}), flush=True)
    ties = {"METHOD": "ties", "PARAMS": {"base": str(b), "density": 0.2}, "MORE": []}
    run = Run(
        f"TIES of two, density 0.2, {size / 1e9:.1f} GB files",
        MERGE,
        {**ties, "DIGESTS": False, "THREADS": 2},
        peer=True,
    )
    print(row(run, out, given, {"A": str(a), "B": str(a)}), flush=True)
    for path in (a, b, out):
        path.unlink(missing_ok=True)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--mergekit", metavar="PYTHON")
    parser.add_argument("--limit", type=float, default=300, metavar="SECONDS")
    parser.add_argument("--runs", type=int, default=3, metavar="N")
    parser.add_argument("--sdxl", action="store_true")
    parser.add_argument("--ours", action="store_true", help="leave the other programs out")
    return parser.parse_args()


def main() -> None:
    """Print the table."""
    given = parse()
    folder = Path(tempfile.mkdtemp(dir=given.folder))
    try:
        a, b, c, out = (folder / f"{name}.safetensors" for name in ("a", "b", "base", "out"))
        make(a, 2, near=True)
        make(b, 3, near=True)
        size = make(c, 1)
        print(f"{platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
        print(
            f"fp16, {size / 1e9:.2f} GB each, medians of {given.runs} for memcard and the floors\n"
        )
        print("| run | CPU s | wall s | peak MB |\n|---|---|---|---|", flush=True)
        exact = ""
        for run in runs(str(a), str(b), str(c), str(out), given.mergekit):
            if given.ours and run.peer:
                continue
            print(row(run, out, given, {"A": str(a), "B": str(b)}), flush=True)
            if not exact and "2 threads" in run.title:
                exact = exactness(a, b, out)
            remove(out)
        if given.sdxl:
            large(folder, given)
        print(f"\n0.7 A + 0.3 B against float64, rounded once: {exact}")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
