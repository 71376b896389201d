"""What ``library.py`` prints of what it measured."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from library_peers import PEERS

Result = Mapping[str, Any]
TITLES = {
    "whole-file": "whole files, each once (git-lfs, DVC, HF cache)",
    "zstd": "zstd -3, each file",
    "restic": "restic (encrypts)",
    "borg": "borg, zstd 3",
    "zipnn": "ZipNN, each file",
    "xet": "Xet-style chunks, lz4 or grouped lz4",
    "z4ai": "z4ai, bases by hand",
    "packs": "memcard, packs alone, bases by hand",
    "library": "memcard: add, pack, export",
}
DENSE_PEERS = ("z4ai delta", "XOR, ZipNN", "XOR, byte planes, zstd -3")
MOST = 256 * 1.048576  # MB of memory
NONE: Result = {"missing": "not measured"}


def figure(title: str, value: float, reach: float, *, most: bool = False, unit: str = "") -> None:
    """Print one figure and whether it is reached."""
    met = value <= reach if most else value >= reach
    print(f"  {title:56}{value:10.3f} {unit:5}{'at most' if most else 'at least'} {reach:<8.6g}{'ok' if met else 'MISS'}")  # fmt: skip


def print_corpus(known: Result) -> None:
    """Print every family by itself, then all together."""
    families = dict(known.get("corpus", {}))
    if len(families) > 1:
        families["all together"] = together(families)
    for family, rows in families.items():
        whole = rows.get("whole-file", {})
        files, raw = len(whole.get("sizes", ())), whole.get("raw", 0)
        print(f"{family}: {files} files, {raw / 1e6:.0f} MB")
        print(
            f"  {'':50}{'MB':>8}{'ratio':>8}{'CPU in':>9}{'CPU out':>9}{'peak MB':>9}{'equal':>8}"
        )
        for name, title in TITLES.items():
            row = rows.get(name, NONE)
            if "missing" in row:
                print(f"  {title:50}  {row['missing']}")
                continue
            print(f"  {title:50}{row['stored'] / 1e6:8.1f}{row['raw'] / row['stored']:8.2f}{row['in']:9.1f}"
                  f"{row['out']:9.1f}{row['peak']:9.0f}{row['equal']:5}/{files}")  # fmt: skip
        verdicts(family, rows)
        for name in ("packs", "library"):
            print_files(TITLES[name], rows.get(name, {}))
        print()


def verdicts(family: str, rows: Result) -> None:
    """Print what was to be reached, of the library."""
    mine = rows.get("library", NONE)
    peers = [rows[n]["stored"] for n in PEERS if "stored" in rows.get(n, {})]
    if "missing" in mine or not peers:
        return
    raw, stored = mine["raw"], mine["stored"]
    figure(f"{family}: times smaller", raw / stored, 4.2)
    figure(f"{family}: smaller than the best peer", min(peers) / stored, 1.6)
    if "stored" in rows.get("xet", {}):
        figure(f"{family}: smaller than Xet-style", rows["xet"]["stored"] / stored, 2.8)
    figure(f"{family}: share of files that came back equal", mine["equal"] / len(mine["sizes"]), 1.0)  # fmt: skip
    figure(f"{family}: add, pack and gc", raw / mine["in"] / 1e9, 0.6, unit="GB/s")
    figure(f"{family}: export", raw / mine["out"] / 1e9, 1.0, unit="GB/s")
    figure(f"{family}: peak memory", mine["peak"], MOST, most=True, unit="MB")
    if "seconds" not in mine:
        return
    spent = ", ".join(f"{verb} {s:.1f} s" for verb, s in mine["seconds"].items())
    parts = ", ".join(f"{name} {size / 1e6:.2f}" for name, size in mine["parts"].items() if size > 5000)  # fmt: skip
    print(f"  seconds of CPU: {spent}; MB: {parts}")


def together(families: Result) -> dict[str, dict[str, Any]]:
    """Add the families up; no store finds anything of one in the other."""
    found = {}
    for name in TITLES:
        rows = [family.get(name, NONE) for family in families.values()]
        if any("missing" in row for row in rows):
            found[name] = dict(NONE)
            continue
        sums = {key: sum(row[key] for row in rows) for key in ("raw", "stored", "in", "out", "equal")}  # fmt: skip
        sizes = {path: size for row in rows for path, size in row["sizes"].items()}
        found[name] = sums | {"sizes": sizes, "peak": max(row["peak"] for row in rows), "parts": {}}
    return found


def print_files(title: str, found: Result) -> None:
    """Print what each file took that was not there before, and what the training saves take of all."""
    mine, how = found.get("files", {}), found.get("how", {})
    if not mine:
        return
    print(f"  {title}, by file: MB of packs that were not there before")
    for path, stored in mine.items():
        size = found["sizes"][path]
        print(
            f"    {path:40}{size / 1e6:9.1f}{stored / 1e6:10.3f}{100 * stored / size:8.2f} %  {how.get(path, '')}"
        )
    for label, saves in (("training saves", True), ("all others", False)):
        chosen = [p for p in mine if Path(p).stem.startswith("save_") == saves]
        size, stored = (sum(of[p] for p in chosen) for of in (found["sizes"], mine))
        print(f"    {label:40}{size / 1e6:9.1f}{stored / 1e6:10.3f}{size / (stored or 1):8.2f} times smaller")  # fmt: skip


def print_derived(known: Result) -> None:
    """Print what files take whose parents are there."""
    print("by how much the library grows, manifest and records included, % of the file")
    for family, found in known.get("derived", {"corpus": NONE}).items():
        print_grown(family, found)


def print_grown(family: str, found: Result) -> None:
    """Print how much the library grew by each file."""
    if "missing" in found:
        print(f"  {family}: {found['missing']}")
        return
    for path, row in found.items():
        if isinstance(row, dict):
            title = f"{family}/{path}, {row['size'] / 1e6:.0f} MB: {row['stored'] / 1e3:.0f} kB"
            figure(title, 100 * row["stored"] / row["size"], 0.1, most=True, unit="%")
            print(f"      {row['how']}")


def print_dense(known: Result) -> None:
    """Print the dense slices."""
    ours, peers = known.get("dense", {}), known.get("dense-peers", {})
    if "missing" in ours:
        print(f"dense slices: {ours['missing']}")
        return
    names = ("delta_ans", "delta_zstd", *DENSE_PEERS, "FM-Delta, ideal", "counted", "bound")
    print("dense slices: times smaller")
    print(f"{'':28}{'MB':>7}" + "".join(f"{n.split(',')[-1].strip()[:10]:>12}" for n in names))
    for label, row in ours.items():
        if isinstance(row, dict):
            sizes = [size_of(row, n) or size_of(peers.get(label, {}), n) for n in names]
            cells = "".join(f"{row['raw'] / s:12.3f}" if s else f"{'-':>12}" for s in sizes)
            print(f"{label:28}{row['raw'] / 1e6:7.1f}{cells}")
    for label, row in ours.items():
        if isinstance(row, dict):
            print_slice(label, row, peers.get(label, {}))


def print_slice(label: str, row: Result, others: Result) -> None:
    """Print what was to be reached of one slice."""
    own, bound = row["delta_ans"], row["bound"]
    best = min((size_of(others, n) for n in DENSE_PEERS if n in others), default=0)
    wanted = {"bf16": 1.35, "fp16": 1.2, "fp32": 1.07}[label.rpartition("_")[2]]
    if best:
        figure(f"{label}: smaller than the best peer", best / own["size"], wanted)
    figure(f"{label}: above the entropy", 100 * (own["size"] / bound - 1), 3, most=True, unit="%")
    slices = [own, *(others[n] for n in DENSE_PEERS if n in others)]
    figure(f"{label}: slices equal", sum(one["equal"] for one in slices) / len(slices), 1.0)
    figure(f"{label}: encode", row["raw"] / own["in"] / 1e9, 0.6, unit="GB/s")
    figure(f"{label}: decode", row["raw"] / own["out"] / 1e9, 1.0, unit="GB/s")
    if "z4ai delta" in others:
        times = others["z4ai delta"]["in"] / own["in"]
        figure(f"{label}: encode, times z4ai's speed", times, 10)


def size_of(row: Mapping[str, Any], name: str) -> float:
    """Return a size, 0 if there is none."""
    found = row.get(name, 0)
    return float(found["size"] if isinstance(found, dict) else found)


def print_speed(known: Result) -> None:
    """Print the speed of add."""
    found = known.get("speed", NONE)
    if "missing" in found:
        print(f"add: {found['missing']}")
        return
    size = found["size"] / 1e9
    print(f"add of a new file of {size:.1f} GB, page cache warm, best of three")
    for name in ("sha256", "add"):
        print(f"  {name:10}{size / found[name]['wall']:8.2f} GB/s wall{size / found[name]['cpu']:8.2f} GB/s of CPU")  # fmt: skip
    figure("speed of hashlib.sha256, wall", found["sha256"]["wall"] / found["add"]["wall"], 0.8)
    figure("unchanged", 1000 * found["unchanged"]["wall"], 5, most=True, unit="ms")
    figure("size of the library, its reserve included", found["library"] / 1e6, 2, most=True, unit="MB")  # fmt: skip


def print_full(known: Result) -> None:
    """Print what files of full size take, and how soon pictures can be made of them."""
    print("files of Stable Diffusion 1.5's size, fp16, random values")
    found = known.get("full", NONE)
    print_grown("full", {n: r for n, r in found.items() if n not in ("base", "tune")})
    for name in ("base", "tune"):
        if row := found.get(name):
            print(f"  {name}: {row['size'] / 1e6:.0f} MB, {row['stored'] / 1e6:.0f} MB stored, {row['cpu']:.1f} s of CPU, "
                  f"{row['size'] / row['cpu'] / 1e9:.2f} GB/s: {row['how']}")  # fmt: skip
    if "peak" in found:
        figure("add, pack and gc of all five: peak memory", found["peak"], MOST, most=True, unit="MB")  # fmt: skip
    for label, ways in known.get("ready", {}).items():
        print_ready(label, ways)


def print_ready(label: str, ways: Result) -> None:
    """Print how soon ``generate`` is ready, cold."""
    missing = [row["missing"] for rows in ways.values() for row in rows if "missing" in row]
    if missing:
        print(f"  {label}: {missing[0]}")
        return
    for way, rows in ways.items():
        cells = " ".join(f"{key} {statistics.median(row[key] for row in rows):.2f}" for key in ("wall", "load", "cpu", "peak"))  # fmt: skip
        print(f"  {label}, {way}: seconds and MB, median of {len(rows)}: {cells}")
    wall, load = (
        [statistics.median(row[key] for row in ways[way]) for way in ("packed", "plain")]
        for key in ("wall", "load")
    )
    figure(f"{label}: ready, packed / plain", wall[0] / wall[1], 1.5, most=True)
    print(f"      loading alone: {load[0] / load[1]:.2f}")


def print_memory(known: Result) -> None:
    """Print the peaks of large files."""
    print("one file, each verb in a process of its own")
    for key in ("memory", "memory, large"):
        found = known.get(key, {})
        for verb in ("add", "pack", "export"):
            row = found.get(verb, NONE)
            if "missing" not in row:
                figure(f"{verb}, {row['size'] / 1e9:.1f} GB, {row['cpu']:.1f} s of CPU: peak", row["peak"], MOST, most=True, unit="MB")  # fmt: skip
            elif found:
                print(f"  {verb}: {row['missing']}")
        if found:
            print(f"  exported file equal: {found.get('equal', False)}")


TABLES = {
    "corpus": print_corpus, "derived": print_derived, "dense": print_dense, "speed": print_speed,
    "full": print_full, "memory": print_memory,
}  # fmt: skip
