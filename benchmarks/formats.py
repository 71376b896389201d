"""The figures of the readers, each beside its peers, measured in turn in the same run.

    python benchmarks/formats.py [--size 2.13] [--runs 5] [--only list,convert,load,cast,digests]
                                 [--folder DIR] [--keep] [--json]

The files have the names of Stable Diffusion 1.5 and random weights; the width follows from ``--size``.
Every run is a process of its own, start-up included, the order changes with each round, the page cache is
warm, and dirty pages are written out before each start. Medians of wall and CPU seconds, the highest peak of
resident memory (the kernel's figure; it counts mapped pages of files). "inside" is the time of the call alone,
without start-up and imports, where the target is about the call. memcard syncs what it writes before it says
so; cp and torch do not, hence the row "cp, then sync".
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

FULL_GB = 2.132  # SD 1.5 in half precision
FILES = {
    "ckpt": "model.ckpt",
    "st": "model.safetensors",
    "wide": "wide.safetensors",
    "out": "out.safetensors",
    "back": "back.ckpt",
}


@dataclass(frozen=True)
class Job:
    """One row of the table: what is run, and whether the figure is of the process or of a part."""

    name: str
    command: tuple[str, ...]
    inside: bool = False


@dataclass(frozen=True)
class Figure:
    """One promise: ours is at most ``reach`` times the peer."""

    title: str
    ours: str
    peers: tuple[str, ...]  # the fastest of them counts
    reach: float
    peak: int | None = None  # MiB


@dataclass
class Runs:
    """What was measured of one job, one entry per round."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    peak: list[float] = field(default_factory=list)
    inside: list[float] = field(default_factory=list)

    def seconds(self, job: Job) -> list[float]:
        return self.inside if job.inside else self.wall


def worker(name: str, *more: str) -> tuple[str, ...]:
    return (sys.executable, __file__, "--worker", name, *more)


MEMCARD = (sys.executable, "-m", "memcard")
COPY = ("cp", "--reflink=never")

SECTIONS: Mapping[str, tuple[Job, ...]] = {
    "list": (
        Job("memcard.open", worker("list-memcard", "{ckpt}")),
        Job("torch.load(mmap=True)", worker("list-torch", "{ckpt}", "1")),
        Job("torch.load(mmap=False)", worker("list-torch", "{ckpt}", "0")),
    ),
    "convert": (
        Job("memcard convert .ckpt", (*MEMCARD, "convert", "{ckpt}", "{out}")),
        Job("memcard convert to .ckpt", (*MEMCARD, "convert", "{st}", "{back}")),
        Job("cp of the .ckpt", (*COPY, "{ckpt}", "{out}")),
        Job("cp, then sync", ("sh", "-c", "cp --reflink=never '{ckpt}' '{out}' && sync '{out}'")),
        Job("torch.load(mmap=True) + save_file", worker("convert-torch", "{ckpt}", "{out}")),
    ),
    "load": (
        Job("memcard.load", worker("load-memcard", "{st}", "0"), inside=True),
        Job("safetensors load_file", worker("load-safetensors", "{st}", "0"), inside=True),
        Job("memcard.load + every byte", worker("load-memcard", "{st}", "1"), inside=True),
        Job("load_file + every byte", worker("load-safetensors", "{st}", "1"), inside=True),
    ),
    "cast": (
        Job("memcard convert --dtype fp16", (*MEMCARD, "convert", "{wide}", "{out}", "--dtype", "fp16")),
        Job("memcard convert --dtype bf16", (*MEMCARD, "convert", "{wide}", "{out}", "--dtype", "bf16")),
        Job("cp of the fp32 file", (*COPY, "{wide}", "{out}")),
        Job("cp, then sync, fp32", ("sh", "-c", "cp --reflink=never '{wide}' '{out}' && sync '{out}'")),
        Job("torch: load_file, half(), save_file", worker("cast-torch", "{wide}", "{out}")),
    ),
    "digests": (
        Job("all seven digests", worker("digests", "{st}"), inside=True),
        Job("hashlib.sha256 alone", worker("sha256", "{st}"), inside=True),
    ),
}  # fmt: skip

FIGURES = (
    Figure("list keys and shapes of a .ckpt, whole process", "memcard.open", ("torch.load(mmap=True)",), 0.25, 64),
    Figure(".ckpt to .safetensors", "memcard convert .ckpt", ("cp of the .ckpt", "cp, then sync"), 1.3, 150),
    Figure("load into torch, the call", "memcard.load", ("safetensors load_file",), 1.05),
    Figure("load into torch and touch every byte", "memcard.load + every byte", ("load_file + every byte",), 1.05),
    Figure("cast fp32 to fp16", "memcard convert --dtype fp16", ("cp of the fp32 file", "cp, then sync, fp32"), 1.3),
    Figure("cast fp32 to bf16", "memcard convert --dtype bf16", ("cp of the fp32 file", "cp, then sync, fp32"), 1.3),
    Figure("all digests in one read", "all seven digests", ("hashlib.sha256 alone",), 1.7),
)  # fmt: skip


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        run_worker(*sys.argv[2:])
        return
    options = parse()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="memcard-bench-"))
    folder.mkdir(exist_ok=True)
    files = {key: str(folder / name) for key, name in FILES.items()}
    try:
        make_files(files, options.size, options.only)
        found = measure(files, options.only, options.runs)
        report(found, files, options)
    finally:
        if options.keep:
            drop_outputs(files)
        else:
            shutil.rmtree(folder)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=float, default=FULL_GB, help="GB of each file")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(SECTIONS))
    parser.add_argument("--folder", type=Path, help="where the files go; deleted unless --keep")
    parser.add_argument("--keep", action="store_true", help="keep and reuse the files")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if unknown := set(options.only) - set(SECTIONS):
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    return options


def make_files(files: Mapping[str, str], size: float, only: Sequence[str]) -> None:
    """Write the inputs in processes of their own: a child's peak begins at its parent's."""
    wanted = (
        [("ckpt", "F16"), ("st", "F16")]
        if {"list", "convert", "load", "digests"} & set(only)
        else []
    )
    wanted += [("wide", "F32")] if "cast" in only else []
    for key, dtype in wanted:
        if not Path(files[key]).exists():
            subprocess.run(worker("make", files[key], dtype, str(size)), check=True)


def drop_outputs(files: Mapping[str, str]) -> None:
    for key in ("out", "back"):
        Path(files[key]).unlink(missing_ok=True)


def warm(path: str) -> None:
    """Read a file into the page cache; some kernels give cold pages back while other jobs run."""
    buffer = bytearray(4 << 20)
    with Path(path).open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def measure(files: Mapping[str, str], only: Sequence[str], runs: int) -> dict[str, Runs]:
    found: dict[str, Runs] = {}
    for section in only:
        jobs = SECTIONS[section]
        for i in range(runs):
            for job in (*jobs[i % len(jobs) :], *jobs[: i % len(jobs)]):
                drop_outputs(files)
                for key in ("ckpt", "st", "wide"):
                    if any(f"{{{key}}}" in part for part in job.command):
                        warm(files[key])
                os.sync()  # the last job's dirty pages must not be this one's wait
                run(
                    [part.format(**files) for part in job.command],
                    found.setdefault(job.name, Runs()),
                )
    return found


def run(command: Sequence[str], into: Runs) -> None:
    """Run one process to its end and note wall and CPU seconds, peak MiB and what it says of itself."""
    start = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    said = process.stdout.read() if process.stdout else ""
    _, status, usage = os.wait4(process.pid, 0)
    into.wall.append(time.perf_counter() - start)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    into.cpu.append(usage.ru_utime + usage.ru_stime)
    into.peak.append(usage.ru_maxrss / 1024)
    if said.startswith("inside "):
        into.inside.append(float(said.split()[1]))


def report(
    found: Mapping[str, Runs], files: Mapping[str, str], options: argparse.Namespace
) -> None:
    jobs = {job.name: job for section in options.only for job in SECTIONS[section]}
    figures = [verdict(figure, found, jobs) for figure in FIGURES if figure.ours in found]
    if options.json:
        facts = {
            "machine": machine(),
            "runs": options.runs,
            "bytes": {
                key: Path(path).stat().st_size for key, path in files.items() if Path(path).exists()
            },
            "jobs": {name: vars(runs) for name, runs in found.items()},
            "figures": figures,
        }
        print(json.dumps(facts, indent=2))
        return
    sizes = {
        key: Path(path).stat().st_size / 1e9 for key, path in files.items() if Path(path).exists()
    }
    print(
        ", ".join(
            f"{FILES[key]} {size:.2f} GB"
            for key, size in sizes.items()
            if key not in ("out", "back")
        )
    )
    print(f"median of {options.runs} runs; {machine()}\n")
    print(f"{'job':38} {'inside s':>9} {'wall s':>8} {'CPU s':>7} {'peak MiB':>9}")
    for section in options.only:
        for job in SECTIONS[section]:
            runs = found[job.name]
            inside = f"{statistics.median(runs.inside):9.3f}" if runs.inside else " " * 9
            print(f"{job.name:38} {inside} {statistics.median(runs.wall):8.2f} "
                  f"{statistics.median(runs.cpu):7.2f} {max(runs.peak):9.0f}")  # fmt: skip
        print()
    print(f"{'figure':48} {'ratio':>6} {'reach':>6} {'':5} {'peak MiB':>9} {'reach':>6}")
    for f in figures:
        peak = f"{f['peak']:9.0f} {f['peak_reach']:6}" if f["peak_reach"] else ""
        print(
            f"{f['title']:48} {f['ratio']:6.2f} {f['reach']:6.2f} {'ok' if f['met'] else 'MISS':5} {peak}"
        )


def verdict(
    figure: Figure, found: Mapping[str, Runs], jobs: Mapping[str, Job]
) -> dict[str, object]:
    ours, *peers = (
        statistics.median(found[name].seconds(jobs[name])) for name in (figure.ours, *figure.peers)
    )
    peer = min(peers)
    peak = max(found[figure.ours].peak)
    met = ours <= figure.reach * peer and (figure.peak is None or peak <= figure.peak)
    return {
        "title": figure.title,
        "ours": figure.ours,
        "peer": figure.peers[peers.index(peer)],
        "ratio": ours / peer,
        "reach": figure.reach,
        "peak": peak,
        "peak_reach": figure.peak,
        "met": met,
    }


def machine() -> str:
    from importlib.metadata import version

    names = ", ".join(f"{name} {version(name)}" for name in ("torch", "safetensors"))
    return (
        f"Python {platform.python_version()}, {names}, {os.cpu_count()} cores, {platform.system()}"
    )


# What runs in a process of its own. Each imports only what it needs.


def check(fact: bool) -> None:
    if not fact:
        raise SystemExit("the benchmark measured something else than it says")


def run_worker(name: str, *more: str) -> None:
    WORKERS[name](*more)


def make(path: str, dtype: str, size: str) -> None:
    """Write a file with the names of SD 1.5, of about ``size`` GB."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    import numpy as np

    from fixtures.sd15 import Size, shapes

    kind = {"F16": np.float16, "F32": np.float32}[dtype]
    factor = (float(size) / FULL_GB * 2 / np.dtype(kind).itemsize) ** 0.5
    u, v, t, i = (32 * max(1, round(n * factor / 32)) for n in (320, 128, 768, 3072))
    width = Size((u, 2 * u, 4 * u, 4 * u), (v, 2 * v, 4 * v, 4 * v), t, i, t)
    rng = np.random.default_rng(0)
    values = (
        (name, (rng.standard_normal(shape, np.float32) * np.float32(0.03)).astype(kind))
        for name, shape in shapes(width).items()
    )
    if path.endswith(".ckpt"):
        import torch

        state = {name: torch.from_numpy(array) for name, array in values}
        torch.save({"state_dict": state, "global_step": 470000}, path)
    else:
        write_safetensors(path, dtype, shapes(width), values)


def write_safetensors(path: str, dtype: str, shapes: Mapping[str, tuple[int, ...]],
                      values: Iterator[tuple[str, object]]) -> None:  # fmt: skip
    from memcard.core.tensors import DTYPES, Spec
    from memcard.formats.safetensors import PLUGIN

    with PLUGIN.create(Path(path)) as sink:
        sink.begin({name: Spec(DTYPES[dtype], shape) for name, shape in shapes.items()}, {})
        for name, array in values:
            sink.write(name, memoryview(array.tobytes()))  # type: ignore[attr-defined]


def list_memcard(path: str) -> None:
    import memcard

    checkpoint = memcard.open(path)
    check(len([(name, spec.shape, spec.dtype) for name, spec in checkpoint.specs.items()]) > 1000)


def list_torch(path: str, mmap: str) -> None:
    import torch

    state = torch.load(path, weights_only=True, mmap=mmap == "1")["state_dict"]  # noqa: TID251
    check(len([(name, tensor.shape, tensor.dtype) for name, tensor in state.items()]) > 1000)


def convert_torch(src: str, dst: str) -> None:
    import torch
    from safetensors.torch import save_file

    save_file(torch.load(src, weights_only=True, mmap=True)["state_dict"], dst)  # noqa: TID251


def load_memcard(path: str, touch: str) -> None:
    import torch  # noqa: F401  # not part of the figure, on either side

    import memcard

    memcard.load("starter")  # first use of the modules
    _timed(lambda: memcard.load(path), touch)


def load_safetensors(path: str, touch: str) -> None:
    import torch  # noqa: F401
    from safetensors.torch import load_file

    from memcard.jobs.resolve import locate

    load_file(locate("starter"))
    _timed(lambda: load_file(path), touch)


def _timed(load: Callable[[], dict[str, object]], touch: str) -> None:
    import gc

    import torch

    torch.set_num_threads(1)  # threads that wait for each other would be measured on a busy machine
    gc.collect()  # of what importing torch left behind: chance would decide whose time it takes
    start = time.perf_counter()
    tensors = load()
    if touch == "1":
        for tensor in tensors.values():
            tensor.view(torch.int16).max()  # type: ignore[attr-defined]
    print(f"inside {time.perf_counter() - start:.6f}")


def cast_torch(src: str, dst: str) -> None:
    from safetensors.torch import load_file, save_file

    save_file({name: tensor.half() for name, tensor in load_file(src).items()}, dst)


def digests(path: str) -> None:
    import memcard
    from memcard.core.digest import digests_file

    extents = map(memcard.open(path).extent, memcard.open(path).specs)
    offset = min(extent.offset for extent in extents if extent)
    start = time.perf_counter()
    found = digests_file(Path(path), data_offset=offset)
    print(f"inside {time.perf_counter() - start:.6f}")
    check(len(found) == 7)


def sha256(path: str) -> None:
    import hashlib

    start = time.perf_counter()
    with Path(path).open("rb") as file:
        hashlib.file_digest(file, "sha256").hexdigest()
    print(f"inside {time.perf_counter() - start:.6f}")


WORKERS: Mapping[str, Callable[..., None]] = {
    "make": make,
    "list-memcard": list_memcard,
    "list-torch": list_torch,
    "convert-torch": convert_torch,
    "load-memcard": load_memcard,
    "load-safetensors": load_safetensors,
    "cast-torch": cast_torch,
    "digests": digests,
    "sha256": sha256,
}


if __name__ == "__main__":
    main()
