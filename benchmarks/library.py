"""The figures of the library beside its peers, on a corpus of really trained checkpoints.

    python benchmarks/corpus.py CORPUS --minilm WHEEL               # once, a quarter of an hour
    python benchmarks/library.py CORPUS --peers PYTHON [--again NAME,…] [--only PART,…] [--large] [--json]

PYTHON is the interpreter of an environment with ``pip install zipnn z4ai lz4 numba zstandard``; restic, borg
and zstd are the programs of the system (``apt-get install restic borgbackup zstd``). What is missing is said.

Parts: ``corpus`` (stored size, seconds of CPU in and out, peak memory, for each family by itself; every way has
to give back every file from where it was put, with the originals out of sight, and each is compared byte by
byte), ``derived`` (what casts, merges, averages and baked LoRAs take where their parents are packed), ``dense``
(tensors in which every value was trained, by dtype, with the entropy they are held against), ``speed`` (``add``
against hashlib.sha256), ``full`` (files of Stable Diffusion 1.5's size: derived ones, and how soon ``generate``
is ready), ``memory`` (one file of 1 GB; of 7 GB with ``--large``).

What was measured of peers is kept in CORPUS/results.json until their version or the corpus changes or
``--again`` names them (``--again all``); memcard is measured anew every time. Seconds are those of the
processor, threads added up; peak memory is the kernel's figure for the largest process, start-up included.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from library_peers import PEERS, files_of
from library_tables import TABLES, TITLES

HERE = Path(__file__).parent
OURS, FULL = (sys.executable, HERE / "library_ours.py"), (sys.executable, HERE / "library_full.py")
PROGRAMS = {"zstd": "zstd", "restic": "restic", "borg": "borg"}
PACKAGES = {"zipnn": "zipnn", "z4ai": "z4ai", "xet": "lz4"}
ROUNDS = {"starter": 3, "full": 2}
Result = dict[str, Any]


def run(command: Sequence[object], environment: Mapping[str, str]) -> Result:
    """Run a process to its end; return what it prints as JSON, with its peak in MB, or its last words."""
    with tempfile.TemporaryFile("w+") as words:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdout=subprocess.PIPE, stderr=words, text=True, env=os.environ | environment,
        )  # fmt: skip
        said = process.stdout.read() if process.stdout else ""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            words.seek(0)
            return {"missing": (words.read().strip().splitlines() or ["no word of why"])[-1][:200]}
    found: Result = json.loads(said.strip().splitlines()[-1])
    return found | {"peak": usage.ru_maxrss * 1024 / 1e6}


class Bench:
    """The corpus, a folder for what is made of it, and what was measured before."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.corpus: Path = options.corpus.absolute()
        self.families = {p.parent.name: p.parent for p in self.corpus.glob("*/base.safetensors")}
        if not self.families:
            raise SystemExit(f"{self.corpus}: no corpus. Make it with benchmarks/corpus.py.")
        self.kept = self.corpus / "results.json"
        mark = [[str(p), *self._state(p)] for p in files_of(self.corpus)]
        old = json.loads(self.kept.read_text()) if self.kept.exists() else {}
        self.known: Result = old["found"] if old.get("mark") == mark else {}
        self._mark = mark

    def _state(self, path: Path) -> tuple[int, float]:
        state = (self.corpus / path).stat()
        return state.st_size, state.st_mtime

    def keep(self) -> None:
        """Write what was measured."""
        self.kept.write_text(json.dumps({"mark": self._mark, "found": self.known}, indent=1))

    def wanted(self, name: str, old: Result | None, version: str) -> bool:
        """Tell whether something of a peer has to be measured, or measured again."""
        again = self.options.again
        stale = old is None or "missing" in old or old.get("version") != version
        return stale or "all" in again or name in again

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """Give a folder on the disk of the corpus, so that hard links work, and empty it behind."""
        path = Path(tempfile.mkdtemp(prefix="benchmark-", dir=self.corpus.parent))
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def environment(self, folder: Path, gb: float = 0.0) -> dict[str, str]:
        """Return what the processes are to know."""
        return {
            "BENCHMARK_HOME": str(folder / "home"),
            "BENCHMARK_GB": str(gb),
            "MEMCARD_HOME": str(folder / "library"),
            "OMP_NUM_THREADS": "1",
        }


def version_of(name: str, peers: str) -> str:
    """Return the version of a peer; empty if it is not there."""
    if name in PROGRAMS:
        program = shutil.which(PROGRAMS[name])
        flag = "version" if name == "restic" else "--version"
        return "" if program is None else subprocess.run([program, flag], capture_output=True, text=True, check=False).stdout.strip()  # fmt: skip
    if name not in PACKAGES:
        return "1"
    code = f"from importlib.metadata import version as v; print(v({PACKAGES[name]!r}))"
    done = subprocess.run([peers, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def corpus(bench: Bench) -> None:
    """Store each family in every way, and take it out again."""
    kept = bench.known.setdefault("corpus", {})
    for family in sorted(bench.families):
        rows = kept.setdefault(family, {})
        for name in PEERS:
            version = version_of(name, bench.options.peers)
            if bench.wanted(name, rows.get(name), version):
                script = (bench.options.peers, HERE / "library_peers.py", name)
                missing = {"missing": "not installed"}
                found = there_and_back(bench, family, name, script) if version else missing
                rows[name] = found | {"version": version}
                bench.keep()
        for name in ("packs", "library"):
            rows[name] = there_and_back(bench, family, name, (*OURS, name))
            bench.keep()


def there_and_back(bench: Bench, family: str, name: str, script: Sequence[object]) -> Result:
    """Store, measure, hide the originals, take out and compare."""
    note(f"{family}: {TITLES[name]}")
    with bench.folder() as folder:
        source, store, out = folder / "originals", folder / "store", folder / "out"
        environment = bench.environment(folder)
        view(bench.families[family], source)
        files = files_of(source)
        sizes = {str(path): (source / path).stat().st_size for path in files}
        put = run((*script, "in", source, store), environment)
        if "missing" in put:
            return put
        hidden = source.rename(folder / "hidden")
        parts = {p.name: taken(p) for p in sorted(store.iterdir())}
        got = run((*script, "out", store, out), environment | {"BENCHMARK_HIDDEN": str(hidden)})
        if "missing" in got:
            return {"missing": f"nothing came out: {got['missing']}"}
        equal = sum(same(hidden / path, out / path) for path in files)
        more = {key: put[key] for key in ("seconds", "files", "how") if key in put}
        return {
            "raw": sum(sizes.values()), "sizes": sizes, "stored": sum(parts.values()), "in": put["cpu"],
            "out": got["cpu"], "peak": max(put["peak"], got["peak"]), "equal": equal,
            "parts": parts, **more,
        }  # fmt: skip


def view(family: Path, target: Path) -> None:
    """Link the files of a family, and its LoRA, into a folder of their own."""
    lora = family.parent / "loras" / f"{family.name}_style.safetensors"
    found = [(p, f"{family.name}/{p.name}") for p in sorted(family.iterdir())]
    found += [(lora, f"loras/{lora.name}")] if lora.exists() else []
    for path, name in found:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        os.link(path, target / name)


def taken(path: Path) -> int:
    """Return the bytes of a file, or of all files of a folder."""
    if path.is_file():
        return path.lstat().st_size
    return sum(p.lstat().st_size for p in path.rglob("*") if p.is_file())


def same(one: Path, other: Path) -> bool:
    """Tell whether a file came back as it was."""
    return other.exists() and filecmp.cmp(one, other, shallow=False)


def derived(bench: Bench) -> None:
    """Store what is made from stored checkpoints, one file after the other."""
    for family, source in sorted(bench.families.items()):
        with bench.folder() as folder:
            note(f"{family}: derived files")
            found = run((*OURS, "derived", source, folder), bench.environment(folder))
            bench.known.setdefault("derived", {})[family] = found
    bench.keep()


def dense(bench: Bench) -> None:
    """Code the slices in which every value was trained."""
    with bench.folder() as folder:
        environment = bench.environment(folder)
        note("dense slices")
        made = run((*OURS, "slices", bench.corpus, folder), environment)
        if "missing" in made:
            bench.known["dense"] = made
            return
        bench.known["dense"] = run((*OURS, "dense", folder), environment)
        version = version_of("z4ai", bench.options.peers) + version_of("zipnn", bench.options.peers)
        if bench.wanted("dense-peers", bench.known.get("dense-peers"), version):
            note("dense slices, peers")
            found = run((bench.options.peers, HERE / "library_peers.py", "dense", folder), environment)  # fmt: skip
            bench.known["dense-peers"] = found | {"version": version}
    bench.keep()


def speed(bench: Bench) -> None:
    """Time ``add``."""
    with bench.folder() as folder:
        note("speed of add")
        environment, path = bench.environment(folder, 1.0), folder / "new.safetensors"
        made = run((*FULL, "big", path), environment)
        bench.known["speed"] = (
            made if "missing" in made else run((*FULL, "speed", path), environment)
        )
    bench.keep()


def full(bench: Bench) -> None:
    """Store files of full size, and time how soon pictures can be made of them."""
    with bench.folder() as folder:
        environment = bench.environment(folder)
        note("files of full size")
        made = run((*FULL, "make", folder), environment)
        found = made if "missing" in made else run((*FULL, "store", folder), environment)
        bench.known["full"] = found
        bench.keep()
        plain = {n: folder / "hidden" / f"{n}.safetensors" for n in ("starter", "base")}
        bench.known["ready"] = {} if "missing" in found else {
            "starter": ready(bench, folder, ROUNDS["starter"], plain["starter"], "starter-packed"),
            "full, packed by itself": ready(bench, folder, ROUNDS["full"], plain["base"], "base"),
            "full, packed as a difference": ready(bench, folder, ROUNDS["full"], plain["base"], "tune"),
            "full, packed as a recipe of two": ready(bench, folder, ROUNDS["full"], plain["base"], "merge"),
        }  # fmt: skip
    bench.keep()


def ready(bench: Bench, folder: Path, rounds: int, plain: Path, name: str) -> Result:
    """Time the start of ``generate`` up to the first step, from a plain file and from packs, in turn; cold."""
    note(f"ready from {name}")
    found: Result = {"plain": [], "packed": []}
    for _ in range(rounds):
        for way, ref in (("plain", plain), ("packed", name)):
            cold(folder)
            environment = bench.environment(folder) | {"BENCHMARK_START": str(time.time())}
            row = run((*FULL, "ready", ref), environment)
            if row.get("packed", way == "packed") != (way == "packed"):
                row = {"missing": f"{ref} was not read from where it was to be"}
            found[way].append(row)
    return found


def cold(folder: Path) -> None:
    """Have the kernel forget what it knows of all files of a folder."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            fd = os.open(path, os.O_RDONLY)
            os.fsync(fd)  # only what is on the disk can be forgotten
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def memory(bench: Bench) -> None:
    """Take a large file through the verbs, each in a process of its own."""
    size = 7.0 if bench.options.large else 1.0
    free = shutil.disk_usage(bench.corpus.parent).free / 1e9
    if free < 3.2 * size:
        raise SystemExit(f"{free:.0f} GB are free, a file of {size} GB needs {3.2 * size:.0f}.")
    with bench.folder() as folder:
        environment = bench.environment(folder, size)
        note(f"a file of {size} GB")
        path, found = folder / "big.safetensors", {}
        made = run((*FULL, "big", path), environment)
        away = folder / "away.safetensors"
        for verb in ("add", "pack", "export"):
            note(verb)
            if verb == "export":
                path.rename(away)  # it has to come out of the packs
            found[verb] = made if "missing" in made else run((*FULL, "rss", verb, path, folder), environment)  # fmt: skip
        found["equal"] = same(away, folder / "exported.safetensors")
        bench.known["memory, large" if bench.options.large else "memory"] = found
    bench.keep()


def note(text: str) -> None:
    """Say what is being done."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


MEASURES = {
    "corpus": corpus, "derived": derived, "dense": dense, "speed": speed, "full": full, "memory": memory,
}  # fmt: skip


def main() -> None:
    """Measure what is wanted and print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--peers", default=sys.executable, help="interpreter with the peers")
    parser.add_argument("--again", default="", type=lambda text: text.split(","))
    parser.add_argument("--only", default=list(MEASURES), type=lambda text: text.split(","))
    parser.add_argument("--large", action="store_true", help="a file of 7 GB, not of 1 GB")
    parser.add_argument("--show", action="store_true", help="measure nothing, print what is kept")
    parser.add_argument("--json", action="store_true")
    bench = Bench(parser.parse_args())
    start = time.monotonic()
    for part in () if bench.options.show else bench.options.only:
        MEASURES[part](bench)
    if bench.options.json:
        print(json.dumps(bench.known, indent=1))
        return
    for part in bench.options.only:
        TABLES[part](bench.known)
        print()
    print(f"{time.monotonic() - start:.0f} s, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
