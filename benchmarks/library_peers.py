"""What other programs make of the corpus; each runs in a process of its own, started by ``library.py``.

    PYTHON library_peers.py NAME in  CORPUS STORE
    PYTHON library_peers.py NAME out STORE  OUT
    PYTHON library_peers.py dense FOLDER

PYTHON has ``pip install zipnn z4ai lz4 numba zstandard``; restic, borg and zstd are the programs of the system.
Of Python's peers only the work is counted, not start-up, imports and the compilation of loops.

Xet-style chunking is written here from the published description (gear hash, 64 KiB on average, 8 to 128;
each chunk as it is, with lz4, or with lz4 after grouping bytes by four): hf-xet itself only talks to a server.
All three ways are tried for each chunk, where hf-xet guesses one: never larger than the original's.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

Action = Callable[[Path, Path], float]  # from, to; CPU seconds

# base by hand: the closest relative of the same dtype, as a careful user would choose it
BASES = {"tune_low": "base", "tune_high": "base", "tune_part": "base", "lora": "base"} | {
    "merge": "tune_low", "ema": "tune_low", "save_1": "tune_low",
} | {f"save_{n}": f"save_{n - 1}" for n in range(2, 6)}  # fmt: skip
ZIPNN = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
ENOUGH = 2.0  # seconds; what takes longer is timed once
MIN, MAX, MASK = 8 << 10, 128 << 10, 0xFFFF << 48


def files_of(corpus: Path) -> list[Path]:
    """Return the corpus in the order it came about: bases before what is made from them."""
    found = [
        p.relative_to(corpus) for p in corpus.rglob("*") if p.suffix in (".safetensors", ".ckpt")
    ]
    first = ["base", "base_fp16", "base_bf16", "tune_low", "tune_low_fp16", "tune_low_bf16"]
    rank = {name: i for i, name in enumerate(first)}
    return sorted(
        found, key=lambda p: (p.parent, rank.get(p.stem, 99), p.suffix == ".ckpt", p.name)
    )


def dtype_of(path: Path) -> str:
    """Return the dtype by the end of the name."""
    end = path.stem.rpartition("_")[2]
    return end if end in ("fp16", "bf16") else "fp32"


def base_of(path: Path) -> Path | None:
    """Return the relative path of the file that is taken as base, chosen by hand."""
    if path.suffix == ".ckpt" or path.parent.name == "loras":
        return None
    dtype = dtype_of(path)
    stem = path.stem.removesuffix(f"_{dtype}")
    base = BASES.get(stem)
    end = "" if dtype == "fp32" else f"_{dtype}"
    return None if base is None else path.with_name(f"{base}{end}.safetensors")


def cpu() -> float:
    """Return the CPU seconds of this process and of those it waited for."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(u.ru_utime + u.ru_stime for u in both)


def program(*command: str | Path, folder: Path | None = None) -> None:
    """Run a program of the system; its keys and caches lie in a folder beside the store."""
    environment = os.environ | {
        "RESTIC_PASSWORD": "benchmark",
        "BORG_BASE_DIR": os.environ.get("BENCHMARK_HOME", "borg-home"),
        "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes",
        "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
    }
    subprocess.run([str(c) for c in command], cwd=folder, check=True, env=environment)


def each(one: Callable[[Path, Path, Path], None]) -> Action:
    """Make an action of what is done with one file after the other: from, to, relative path."""

    def action(source: Path, target: Path) -> float:
        spent = 0.0
        for path in files_of(source):
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            start = cpu()
            one(source, target, path)
            spent += cpu() - start
        return spent

    return action


def timed(work: Callable[[Path, Path], None]) -> Action:
    """Make an action that counts all of ``work``."""

    def action(source: Path, target: Path) -> float:
        target.mkdir(parents=True, exist_ok=True)
        start = cpu()
        work(source, target)
        return cpu() - start

    return action


# whole files, each digest once


def whole_in(source: Path, target: Path, path: Path) -> None:
    with (source / path).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not (target / digest).exists():
        shutil.copyfile(source / path, target / digest)
    (target / path).write_text(digest)


def whole_out(source: Path, target: Path, path: Path) -> None:
    shutil.copyfile(source / (source / path).read_text(), target / path)


# programs of the system


def zstd_in(source: Path, target: Path, path: Path) -> None:
    program("zstd", "-3", "-T1", "-q", source / path, "-o", target / path)


def zstd_out(source: Path, target: Path, path: Path) -> None:
    program("zstd", "-d", "-q", source / path, "-o", target / path)


def restic_in(source: Path, target: Path) -> None:
    program("restic", "-q", "--no-cache", "-r", target, "init", "--repository-version", "latest")
    program("restic", "-q", "--no-cache", "-r", target, "backup", ".", folder=source)


def restic_out(source: Path, target: Path) -> None:
    program("restic", "-q", "--no-cache", "-r", source, "restore", "latest", "--target", target)


def borg_in(source: Path, target: Path) -> None:
    program("borg", "init", "-e", "none", target)
    names = sorted(p.name for p in source.iterdir() if p.is_dir())
    program("borg", "create", "--compression", "zstd,3", f"{target}::all", *names, folder=source)


def borg_out(source: Path, target: Path) -> None:
    program("borg", "extract", f"{source}::all", folder=target)


# packages of Python


def zipnn(path: Path) -> Any:
    from zipnn import ZipNN

    return ZipNN(input_format="byte", bytearray_dtype=ZIPNN[dtype_of(path)], threads=1)


def zipnn_in(source: Path, target: Path, path: Path) -> None:
    (target / path).write_bytes(zipnn(path).compress(bytearray((source / path).read_bytes())))


def zipnn_out(source: Path, target: Path, path: Path) -> None:
    (target / path).write_bytes(zipnn(path).decompress((source / path).read_bytes()))


def z4ai_in(source: Path, target: Path, path: Path) -> None:
    import z4ai

    new, base = (source / path).read_bytes(), base_of(path)
    if base is None:
        packed = z4ai.compress(new, dtype=dtype_of(path), threads=1)
    else:  # tensor by tensor, those of one name and shape
        packed = z4ai.model_delta.compress(new, (source / base).read_bytes(), threads=1)
    (target / path).write_bytes(packed)


def z4ai_out(source: Path, target: Path, path: Path) -> None:
    import z4ai

    packed, base = (source / path).read_bytes(), base_of(path)
    if base is None:
        (target / path).write_bytes(z4ai.decompress(packed))
    else:
        (target / path).write_bytes(
            z4ai.model_delta.decompress(packed, (target / base).read_bytes())
        )


# Xet


def cutter() -> Callable[[Any], Iterator[tuple[int, int]]]:
    """Return what cuts bytes where the gear hash of the last 64 says so."""
    import numba
    import numpy as np

    gear = np.random.default_rng(0).integers(0, 2**64, 256, np.uint64)

    @numba.njit
    def cut(data: Any, start: int, gear: Any, mask: Any) -> int:
        stop = min(start + MAX, data.size)
        h = np.uint64(0)
        for i in range(min(start + MIN - 64, stop), stop):
            h = (h << np.uint64(1)) + gear[data[i]]
            if i >= start + MIN and h & mask == 0:
                return i + 1
        return int(stop)

    cut(np.zeros(8, np.uint8), 0, gear, np.uint64(MASK))  # compile

    def cuts(data: Any) -> Iterator[tuple[int, int]]:
        start = 0
        while start < data.size:
            stop = cut(data, start, gear, np.uint64(MASK))
            yield start, stop
            start = stop

    return cuts


def xet_in(source: Path, target: Path) -> float:
    import lz4.block
    import numpy as np

    target.mkdir(parents=True)
    cuts, spent = cutter(), 0.0
    known: dict[bytes, int] = {}
    with (target / "chunks").open("wb") as out:
        for path in files_of(source):
            start = cpu()
            data = np.fromfile(source / path, np.uint8)
            index = []
            for low, high in cuts(data):
                chunk = data[low:high]
                # hf-xet uses BLAKE3; of these two hashlib has only this one, which costs about the same
                digest = hashlib.sha256(chunk).digest()
                if digest not in known:
                    known[digest] = len(known)
                    grouped = np.concatenate([chunk[i::4] for i in range(4)])
                    forms = [
                        chunk.tobytes(),
                        *(
                            lz4.block.compress(c.tobytes(), store_size=False)
                            for c in (chunk, grouped)
                        ),
                    ]
                    kind = min(range(3), key=lambda i: len(forms[i]))
                    head = struct.pack("<BII", kind, len(forms[kind]), len(chunk))
                    out.write(digest + head + forms[kind])
                index.append(known[digest])
            (target / path).parent.mkdir(exist_ok=True)
            (target / path).write_bytes(struct.pack(f"<{len(index)}I", *index))
            spent += cpu() - start
    return spent


def xet_out(source: Path, target: Path) -> None:
    import lz4.block
    import numpy as np

    places, head = [], struct.Struct("<32sBII")
    packed = np.memmap(source / "chunks", np.uint8)
    at = 0
    while at < packed.size:
        _, kind, length, size = head.unpack(packed[at : at + head.size])
        places.append((kind, at + head.size, length, size))
        at += head.size + length
    for path in files_of(source):
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        with (target / path).open("wb") as out:
            for number in np.fromfile(source / path, "<u4"):
                kind, place, length, size = places[number]
                chunk = packed[place : place + length].tobytes()
                if kind:
                    chunk = lz4.block.decompress(chunk, uncompressed_size=size)
                if kind == 2:
                    grouped = np.frombuffer(chunk, np.uint8)
                    flat = np.empty(size, np.uint8)
                    for i in range(4):
                        n = len(flat[i::4])
                        flat[i::4], grouped = grouped[:n], grouped[n:]
                    chunk = flat.tobytes()
                out.write(chunk)


PEERS: Mapping[str, tuple[Action, Action]] = {
    "whole-file": (each(whole_in), each(whole_out)),
    "zstd": (each(zstd_in), each(zstd_out)),
    "restic": (timed(restic_in), timed(restic_out)),
    "borg": (timed(borg_in), timed(borg_out)),
    "zipnn": (each(zipnn_in), each(zipnn_out)),
    "xet": (xet_in, timed(xet_out)),
    "z4ai": (each(z4ai_in), each(z4ai_out)),
}


# the dense slices: NAME.base and NAME.new are the same values before and after


def dense(folder: Path) -> dict[str, Any]:
    """Return size and CPU seconds by slice and peer; everything is decoded and compared."""
    found = {}
    for path in sorted(folder.glob("*.new")):
        new, base = path.read_bytes(), path.with_suffix(".base").read_bytes()
        rows = {"z4ai delta": _z4ai, "XOR, ZipNN": _zipnn, "XOR, byte planes, zstd -3": _bitx}
        found[path.stem] = {name: row(new, base, dtype_of(path)) for name, row in rows.items()}
    return found


def _coded(
    new: bytes, encode: Callable[[], bytes], decode: Callable[[bytes], Any]
) -> dict[str, Any]:
    """Code a slice up to three times; the fastest counts."""
    found, packed, equal = [], b"", True
    for _ in range(3):
        start = time.process_time()
        packed = encode()
        between = time.process_time()
        back = decode(packed)
        found.append((between - start, time.process_time() - between))
        equal = equal and bytes(back) == new
        if sum(map(sum, found)) > ENOUGH:
            break
    coded, decoded = (min(times) for times in zip(*found, strict=True))
    return {"size": len(packed), "in": coded, "out": decoded, "equal": equal}


def _z4ai(new: bytes, base: bytes, dtype: str) -> dict[str, Any]:
    from z4ai import compress_delta, decompress_delta

    return _coded(
        new,
        lambda: compress_delta(new, base, dtype=dtype, threads=1),
        lambda packed: decompress_delta(packed, base),
    )


def _xor(a: Any, b: Any) -> Any:
    import numpy as np

    return np.frombuffer(a, np.uint8) ^ np.frombuffer(b, np.uint8)


def _zipnn(new: bytes, base: bytes, dtype: str) -> dict[str, Any]:
    def coder() -> Any:
        from zipnn import ZipNN

        return ZipNN(input_format="byte", bytearray_dtype=ZIPNN[dtype], threads=1)

    return _coded(
        new,
        lambda: coder().compress(bytearray(_xor(new, base).tobytes())),
        lambda packed: _xor(coder().decompress(packed), base).tobytes(),
    )


def _bitx(new: bytes, base: bytes, dtype: str) -> dict[str, Any]:
    import numpy as np
    import zstandard

    item = 4 if dtype == "fp32" else 2

    def encode() -> bytes:
        planes = _xor(new, base).reshape(-1, item).T
        coder = zstandard.ZstdCompressor(3)
        parts = [coder.compress(np.ascontiguousarray(plane).data) for plane in planes]
        return b"".join(struct.pack("<I", len(p)) + p for p in parts)

    def decode(packed: bytes) -> bytes:
        flat, at = np.empty((len(new) // item, item), np.uint8), 0
        for i in range(item):
            (size,) = struct.unpack_from("<I", packed, at)
            plane = zstandard.ZstdDecompressor().decompress(packed[at + 4 : at + 4 + size])
            flat[:, i] = np.frombuffer(plane, np.uint8)
            at += 4 + size
        return bytes(_xor(flat.reshape(-1), base))

    return _coded(new, encode, decode)


def main() -> None:
    """Do one thing and print what it cost as JSON."""
    name, *more = sys.argv[1:]
    if name == "dense":
        print(json.dumps(dense(Path(more[0]))))
        return
    direction, source, target = more
    action = PEERS[name][direction == "out"]
    print(json.dumps({"cpu": action(Path(source).absolute(), Path(target).absolute())}))


if __name__ == "__main__":
    main()
