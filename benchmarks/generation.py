"""Generating beside diffusers: seconds and memory per picture, the way to the first step, swaps.

    python benchmarks/generation.py [--only picture,first,swap,packed,peak] [--rounds 5] [--folder DIR]
                                    [--steps 2] [--size 256] [--tiny] [--json]

Two single files in the shapes of Stable Diffusion 1.5 with random float16 weights (2.13 GB each, made in DIR and
removed afterwards), the second a fine-tune of the first; and the starter. Every part runs in processes of its own,
told to stay offline; ours and theirs take turns. Figures are medians of ROUNDS. "CPU" counts the seconds of all
threads, which a busy machine disturbs less than the clock.

Weights are computed with in BF16, as ``--dtype auto`` chooses on processors built for it. Diffusers gets its
configs from a folder on the disk, and its pipeline "by hand" comes from a folder that ``memcard convert`` wrote.
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from fixtures import sd15  # noqa: E402 - not a package

Facts = dict[str, Any]
PARTS = ("picture", "first", "swap", "packed", "peak")
NUDGE = 2e-3  # of each weight: how far a fine-tune is from its base


class Bench:
    """The files, and the processes that use them."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.size = sd15.TINY if options.tiny else sd15.FULL
        self.environment = {
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "PYTHONPATH": str(ROOT / "src"),
            "MEMCARD_HOME": str(folder / "library"),
            "XDG_CACHE_HOME": str(folder / "cache"),
        }
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)  # or ours is compiled every time
        self.path = sd15.write_safetensors(folder / "base.safetensors", self.size)
        self.other = self._tuned(folder / "tune.safetensors")
        self.memcard("convert", str(self.path), f"{folder / 'folder'}/")
        self.configs = folder / "configs"
        shutil.copytree(
            *(folder / "folder", self.configs), ignore=shutil.ignore_patterns("*.safetensors")
        )

    def _tuned(self, path: Path) -> Path:
        """Write a fine-tune: every weight nudged a little, as much as it is large."""
        import numpy as np

        shutil.copyfile(self.path, path)
        rng = np.random.default_rng(1)
        with path.open("r+b") as file:
            begin = 8 + int.from_bytes(file.read(8), "little")
        values = np.memmap(path, np.float16, "r+", begin)
        for at in range(0, len(values), 1 << 22):
            part = values[at : at + (1 << 22)].astype(np.float32)
            noise = rng.standard_normal(len(part), np.float32)
            values[at : at + (1 << 22)] = part * (1 + NUDGE * noise)
        values.flush()
        return path

    @property
    def asked(self) -> Facts:
        """What every part is told."""
        return {
            "path": str(self.path),
            "other": str(self.other),
            "folder": str(self.folder / "folder"),
            "configs": str(self.configs),
            "dtype": "BF16",
            "stored": "F16",
            "rounds": self.options.rounds,
            "steps": self.options.steps,
            "side": 64 if self.options.tiny else self.options.size,
        }

    def memcard(self, *line: str) -> None:
        """Run a command."""
        command = [sys.executable, "-m", "memcard", *line]
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"memcard {' '.join(line)}: {done.stderr}")

    def run(self, part: str, **more: Any) -> Facts:
        """Run a part in a process of its own; add what the process took as a whole."""
        script = Path(__file__).with_name("generation_parts.py")
        command = [sys.executable, str(script), part, json.dumps({**self.asked, **more})]
        start = time.perf_counter()
        with tempfile.TemporaryFile() as out:
            process = subprocess.Popen(
                command, stdout=out, stderr=subprocess.PIPE, env=self.environment
            )
            said = process.stderr.read() if process.stderr else b""
            _, end, usage = os.wait4(process.pid, 0)
            wall = time.perf_counter() - start
            process.returncode = os.waitstatus_to_exitcode(end)
            if process.returncode:
                raise SystemExit(f"{part} ended with {process.returncode}: {said.decode()[-2000:]}")
            out.seek(0)
            found: Facts = json.loads(out.read().splitlines()[-1])
        cpu = usage.ru_utime + usage.ru_stime
        return {**found, "process": {"wall": wall, "cpu": cpu, "peak": usage.ru_maxrss * 1024}}


def picture(bench: Bench) -> Iterator[Facts]:
    """(a) Seconds per image and peak RSS."""
    starter = {"path": "starter", "dtype": "F32", "side": 64, "steps": 20}
    bench.memcard("convert", "starter", f"{bench.folder / 'starter'}/")
    models = {
        "SD 1.5": {},
        "starter": {**starter, "folder": str(bench.folder / "starter")},
    }
    for name, more in models.items():
        ours, theirs = bench.run("our_picture", **more), bench.run("their_picture", **more)
        for what, key, limit in (
            ("seconds per image", "wall", 1.02),
            ("CPU seconds per image", "cpu", 1.02),
            ("peak RSS, GB", "peak", 1.05),
        ):
            scale = 1e9 if key == "peak" else 1
            yield row(f"{name}: {what}", ours[key] / scale, theirs[key] / scale, limit)


def first(bench: Bench) -> Iterator[Facts]:
    """(b) From a cold process to the first step."""
    runs: dict[str, list[Facts]] = {"our_first_step": [], "their_first_step": []}
    for name in runs:
        bench.run(name)  # compiles Python, fills the page cache
    for _ in range(bench.options.rounds):
        for name, found in runs.items():
            found.append(bench.run(name)["process"])
    for key, limit in (("wall", 0.8), ("cpu", 0.8), ("peak", 1.05)):
        ours, theirs = (statistics.median(f[key] for f in found) for found in runs.values())
        scale = 1e9 if key == "peak" else 1
        title = {"wall": "seconds", "cpu": "CPU seconds", "peak": "peak RSS, GB"}[key]
        yield row(f"cold to first step: {title}", ours / scale, theirs / scale, limit)


def swap(bench: Bench) -> Iterator[Facts]:
    """(c) Swap to a sibling in a warm process."""
    ours, theirs = bench.run("our_swap"), bench.run("their_swap")
    for clock in ("wall", "cpu"):
        for kind in ("kept", "read", "converted"):
            title, mine = f"swap, {kind}: {clock} seconds", ours[kind][clock]
            rebuilt = theirs["converted" if kind == "converted" else "read"]
            yield row(f"{title}, beside a rebuild", mine, rebuilt[clock], 0.1)
            if kind != "kept":
                full = theirs[f"{kind}, touched"][clock]
                touched = ours[f"{kind}, touched"][clock]
                yield row(f"{title}, all in memory, beside a rebuild", touched, full, 0.1)
                reading = ours["reading"][clock]
                yield row(f"{title}, all in memory, beside reading", touched, reading, 1.5)


def packed(bench: Bench) -> Iterator[Facts]:
    """(d) Swap to a sibling that is packed as a difference."""
    copy = bench.folder / "packed.safetensors"
    shutil.copyfile(bench.other, copy)
    for path in (bench.path, copy):  # not just written: the library is sure of it by its time
        os.utime(path, ns=(10**18, 10**18))
    bench.memcard("add", str(bench.path), "--name", "base")
    bench.memcard("add", str(copy), "--name", "tuned", "--move")
    bench.memcard("pack", "base")  # its plain file stays
    bench.memcard("pack", "tuned")
    library = str(bench.folder / "library")
    found = bench.run("our_packed_swap", base=str(bench.path), packed="tuned", library=library)
    for where in ("memory", "disk"):
        ours, plain = found[f"packed, {where}"], found[f"plain, {where}"]
        for clock in ("wall", "cpu"):
            title = f"swap to a packed fine-tune from {where}: {clock} seconds, beside a plain one"
            yield row(title, ours[clock], plain[clock], 1.5)
        title = f"the same, GB read from {where}, beside its size"
        yield row(title, ours["read"] / 1e9, found["bytes"] / 1e9, 0.5)


def peak(bench: Bench) -> Iterator[Facts]:
    """(e) Peak memory while loading."""
    for dtype in ("BF16", "F16"):
        ours, theirs = bench.run("our_peak", dtype=dtype), bench.run("their_peak", dtype=dtype)
        title = f"peak GB while loading as {dtype}, beside the weights"
        yield row(title, ours["peak"] / 1e9, ours["weights"] / 1e9, 1.15)
        title = f"diffusers: {title}"
        yield row(title, theirs["peak"] / 1e9, theirs["weights"] / 1e9, None)


def row(what: str, ours: float, theirs: float, limit: float | None) -> Facts:
    """Return one figure."""
    return {"what": what, "ours": ours, "beside": theirs, "ratio": ours / theirs, "limit": limit}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--tiny", action="store_true", help="a narrow model: only to see it run")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if odd := set(options.only.split(",")) - set(PARTS):
        parser.error(f"no part {', '.join(odd)}; there are {', '.join(PARTS)}")
    if options.folder is not None:
        Path(options.folder).mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="memcard-bench-", dir=options.folder))
    rows: list[Facts] = []
    try:
        bench = Bench(options, folder)
        machine = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
        print(f"Python {platform.python_version()}, {machine}", file=sys.stderr)
        for part in options.only.split(","):
            for one in globals()[part](bench):
                rows.append(one)
                if not options.json:
                    show(one)
    finally:
        shutil.rmtree(folder)
    if options.json:
        print(json.dumps(rows, indent=1))


def show(one: Facts) -> None:
    """Print one line."""
    limit = f"<= {one['limit']:g}" if one["limit"] is not None else ""
    print(
        f"{one['what']:66} {one['ours']:8.3f} {one['beside']:8.3f} {one['ratio']:7.3f} {limit}",
        flush=True,
    )


if __name__ == "__main__":
    main()
