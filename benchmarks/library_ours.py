"""What memcard makes of the corpus; each runs in a process of its own, started by ``library.py``.

    python library_ours.py packs|library in  CORPUS STORE
    python library_ours.py packs|library out STORE  OUT
    python library_ours.py slices CORPUS FOLDER | derived FAMILY FOLDER | dense FOLDER

``library`` is what a user does: add, pack, export. ``packs`` writes packs with the bases that z4ai gets too,
without discovery and recipes, so that the codec's share of the gain shows.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from library_peers import base_of, cpu, dtype_of, files_of

PACK_SIZE = 256 << 20
BLOCK = 1 << 20  # values
SLICES = ("tune_low", "tune_high")
PARENTS = ("base", "tune_low", "tune_high")
DERIVED = (
    "base.ckpt", "merge.safetensors", "lora.safetensors", "average_made.safetensors",
    "average_by_script.safetensors", "tune_low_fp16.safetensors",
    "tune_low_bf16.safetensors", "base_fp16.safetensors", "merge_bf16.safetensors",
)  # fmt: skip


# the library


def library_in(source: Path, store: Path) -> dict[str, Any]:
    """Add everything by hard links, pack, and let go of what is not needed any more."""
    import memcard

    library, spent, done = memcard.Library(store), {}, {}
    paths = [source / path for path in files_of(source)]
    verbs: tuple[tuple[str, tuple[Any, ...], dict[str, Any]], ...] = (
        ("add", (paths,), {"how": "link"}),
        ("pack", (), {}),
        ("gc", (), {"days": 0}),
    )
    for verb, args, more in verbs:
        start = cpu()
        found = getattr(library, verb)(*args, **more)
        spent[verb] = cpu() - start
        if verb == "add":
            names = {one.name: str(one.path.relative_to(source)) for one in found}
        elif verb == "pack":
            done = {names[one.name]: (one.stored, one.how or one.skipped) for one in found.done}
    sizes, how = ({name: one[i] for name, one in done.items()} for i in (0, 1))
    return {"cpu": sum(spent.values()), "seconds": spent, "files": sizes, "how": how}


def library_out(store: Path, target: Path) -> dict[str, Any]:
    """Export every checkpoint under the path it had; the originals only tell which is which."""
    import memcard

    library, hidden = memcard.Library(store), Path(os.environ["BENCHMARK_HIDDEN"])
    names = {entry.sha256: entry.name for entry in library.ls().entries}
    spent = 0.0
    for path in files_of(hidden):
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        with (hidden / path).open("rb") as file:
            name = names[hashlib.file_digest(file, "sha256").hexdigest()]
        start = cpu()
        library.export(name, target / path)
        spent += cpu() - start
    return {"cpu": spent}


def derived(family: Path, folder: Path) -> dict[str, Any]:
    """Return by how many bytes the library grows for a file whose parents it has packed already."""
    import memcard
    from memcard.jobs.ema import ema_combine

    library = memcard.Library(folder / "library")
    parents = [family / f"{name}.safetensors" for name in PARENTS]
    lora = family.parent / "loras" / f"{family.name}_style.safetensors"
    library.add([p for p in (*parents, lora) if p.exists()], how="link")
    library.pack()
    ema_combine(parents, out=folder / "average_made.safetensors", last=3, steps=(1, 2, 3))
    _average(parents, folder / "average_by_script.safetensors")
    files = [(p, folder / p if p.startswith("average") else family / p) for p in DERIVED]
    return dict(grown(library, files))


def _average(parents: list[Path], path: Path) -> None:
    """Write the moving average of three snapshots, decay 0.8, by a script in float32."""
    import numpy as np

    import memcard
    from memcard.formats.safetensors import PLUGIN

    first, *later = (memcard.open(parent) for parent in parents)
    with PLUGIN.create(path) as sink:
        sink.begin(first.specs, {})
        for name, spec in first.specs.items():
            values = np.frombuffer(first.read(name), np.uint8).copy()
            for one in later if spec.dtype.name == "F32" else ():
                mine, new = values.view(np.float32), np.frombuffer(one.read(name), np.float32)
                mine += np.float32(0.2) * (new - mine)
            sink.write(name, memoryview(values))


def grown(library: Any, files: list[tuple[str, Path]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Add and pack one file after the other; yield by how many bytes the library grows."""
    before = taken(library.path)
    for name, path in files:
        start = cpu()
        library.add([path], how="link")
        done = library.pack().done
        library.gc(days=0)
        now, size = taken(library.path), path.stat().st_size
        how = next((one.how or one.skipped for one in done if one.how != "packed already"), "")
        yield name, {"size": size, "stored": now - before, "how": how, "cpu": cpu() - start}
        before = now


def taken(folder: Path) -> int:
    """Return the bytes of all files of a folder."""
    return sum(p.lstat().st_size for p in folder.rglob("*") if p.is_file())


# packs, bases by hand


def packs_in(source: Path, store: Path) -> dict[str, Any]:
    """Write packs, and an index from which the files can be rebuilt."""
    book = Book(source, store)
    _compile()
    start = cpu()
    with book:
        for path in files_of(source):
            book.add(path)
    (store / "index.json").write_text(json.dumps(book.index, separators=(",", ":")))
    return {"cpu": cpu() - start, "files": book.sizes}


class Book:
    """Packs that are being written, and what lies in them."""

    def __init__(self, source: Path, store: Path) -> None:
        self.source, self.store = source, store
        self.index: dict[str, list[tuple[str, int]]] = {}
        self.sizes: dict[str, int] = {}
        self._depth: dict[str, int] = {}
        self._tensors: dict[Path, dict[str, Any]] = {}
        self._writer: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *more: object) -> None:
        if self._writer is not None:
            if kind is None:
                self._writer.commit()
            self._writer.__exit__(kind, *more)

    def add(self, path: Path) -> None:
        """Store one file: its tensors, each once, and what lies between them."""
        import memcard

        fd = os.open(self.source / path, os.O_RDONLY)
        try:
            with memcard.open(self.source / path) as checkpoint:
                self._store(path, checkpoint, fd)
        finally:
            os.close(fd)

    def _store(self, path: Path, checkpoint: Any, fd: int) -> None:
        from blake3 import blake3

        mine = self._tensors[path] = {}
        base = base_of(path)
        if base is not None and base.stem.startswith("save_"):
            base = base.with_stem("save_1")  # z4ai's chain would be too deep here
        before = self._tensors.get(base, {}) if base else {}
        end, segments, stored, between = 0, [], 0, bytearray()
        for name, spec, extent in self._in_order(checkpoint):
            between += os.pread(fd, extent.offset - end, end)
            segments += [("", extent.offset - end)] if extent.offset > end else []
            raw = os.pread(fd, extent.size, extent.offset)
            key, end = blake3(raw).hexdigest(), extent.offset + extent.size
            mine[name] = (key, spec, path, extent.offset)
            stored += self._put(
                key,
                memoryview(raw),
                spec.dtype.block_bytes if spec.dtype.block_bytes in (2, 4, 8) else 1,
                before.get(name),
                spec,
            )
            segments.append((key, extent.size))
        rest = os.pread(fd, (self.source / path).stat().st_size - end, end)
        between += rest
        segments += [("", len(rest))] if rest else []
        skeleton = blake3(between).hexdigest()
        stored += self._put(skeleton, memoryview(between), 1, None, None, "skeleton")
        self.index[str(path)] = [(skeleton, -1), *segments]
        self.sizes[str(path)] = stored

    @staticmethod
    def _in_order(checkpoint: Any) -> Iterator[tuple[str, Any, Any]]:
        found = [(n, s, checkpoint.extent(n)) for n, s in checkpoint.specs.items()]
        end = 0
        for name, spec, extent in sorted(found, key=lambda f: f[2].offset):
            if extent.offset >= end:  # of tensors that share memory the first
                yield name, spec, extent
                end = extent.offset + extent.size

    def _put(self, key: str, raw: memoryview, item: int, base: Any, spec: Any, kind: str = "tensor") -> int:  # fmt: skip
        """Store one object and return the bytes it takes; none if it is there already."""
        from memcard.store.pack import BaseRef, PackWriter

        if key in self._depth:
            return 0
        if self._writer is not None and self._writer.size > PACK_SIZE:
            self._writer.commit()
            self._writer.__exit__(None, None, None)
            self._writer = None
        if self._writer is None:
            self._writer = PackWriter(self.store).__enter__()
        with ExitStack() as stack:
            ref = None
            if base is not None and base[1] == spec:
                fd = os.open(self.source / base[2], os.O_RDONLY)
                stack.callback(os.close, fd)
                ref = BaseRef(base[0], lambda at, out: _fill(fd, base[3] + at, out), self._depth[base[0]])  # fmt: skip
            found = self._writer.add(key, len(raw), lambda at, out: _copy(raw, at, out), item=item, kind=kind, base=ref)  # fmt: skip
        self._depth[key] = found.depth
        return int(found.stored)


def _compile() -> None:
    """Compile the loops, which is not counted, as it is not of the peers written in Python."""
    from memcard.codecs import CODECS

    part = memoryview(bytes(range(256)) * 64)
    for name in ("planes_ans", "delta_ans"):
        for item in (1, 2, 4, 8):
            base = part if CODECS[name].needs_base else None
            packed = memoryview(CODECS[name].encode(part, item, base))
            CODECS[name].decode(packed, memoryview(bytearray(part)), item, base)


def _fill(fd: int, offset: int, out: memoryview) -> None:
    os.preadv(fd, [out], offset)


def _copy(raw: memoryview, offset: int, out: memoryview) -> None:
    out[:] = raw[offset : offset + len(out)]


def packs_out(store: Path, target: Path) -> dict[str, Any]:
    """Rebuild every file from the packs."""
    from memcard.store.pack import Pack, reader_of

    _compile()
    start = cpu()
    index = json.loads((store / "index.json").read_text())
    packs = [Pack.open(path) for path in sorted(store.glob("*/*.pack"))]
    where = {key: pack for pack in packs for key in pack.objects}
    read = reader_of(where.get, lambda key, offset, out: False)
    for name, ((skeleton, _), *segments) in index.items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        between = memoryview(where[skeleton].get(skeleton, read))
        with path.open("wb") as out:
            for key, size in segments:
                if not key:
                    out.write(between[:size])
                    between = between[size:]
                for at in range(0, size if key else 0, 4 << 20):
                    part = memoryview(bytearray(min(4 << 20, size - at)))
                    where[key].read(key, at, part, read)
                    out.write(part)
    return {"cpu": cpu() - start}


# dense slices


def slices(corpus: Path, folder: Path) -> dict[str, Any]:
    """Write the values of tensors in which every value was trained, before and after.

    Of the tensors of two and more axes, those in which 999 of 1000 float32 values have changed at the low
    rate; embeddings are left out: rows of words that never came decay, but nothing trains them.
    """
    found = {}
    for family in sorted(p.name for p in corpus.iterdir() if (p / "base.safetensors").exists()):
        names = _trained(corpus / family)
        for tune in SLICES:
            for end in ("", "_fp16", "_bf16"):
                label = f"{family}_{tune}{end or '_fp32'}"
                for source, suffix in ((f"base{end}", "base"), (f"{tune}{end}", "new")):
                    with (folder / f"{label}.{suffix}").open("wb") as out:
                        _write(corpus / family / f"{source}.safetensors", names, out)
        found[family] = len(names)
    return found


def _trained(folder: Path) -> list[str]:
    import numpy as np

    import memcard

    with (
        memcard.open(folder / "base.safetensors") as base,
        memcard.open(folder / "tune_low.safetensors") as new,
    ):
        return [
            name
            for name, spec in base.specs.items()
            if len(spec.shape) > 1 and "embeddings" not in name
            and (np.frombuffer(base.read(name), "<u4") != np.frombuffer(new.read(name), "<u4")).mean() > 0.999
        ]  # fmt: skip


def _write(path: Path, names: list[str], out: Any) -> None:
    import memcard

    with memcard.open(path) as checkpoint:
        for name in names:
            out.write(checkpoint.read(name))


def dense(folder: Path) -> dict[str, dict[str, Any]]:
    """Return bound and sizes by slice; everything is decoded and compared."""
    from memcard.codecs import CODECS

    found = {}
    for path in sorted(folder.glob("*.new")):
        new, base = memoryview(path.read_bytes()), memoryview(path.with_suffix(".base").read_bytes())  # fmt: skip
        item = 4 if dtype_of(path) == "fp32" else 2
        rows = {name: _coded(CODECS[name], new, base, item) for name in ("delta_ans", "delta_zstd")}
        found[path.stem] = {"raw": len(new), **bounds(new, base, dtype_of(path)), **rows}
    return found


def _coded(codec: Any, new: memoryview, base: memoryview, item: int) -> dict[str, Any]:
    """Code a slice in blocks, three times; the fastest counts: other processes share the caches."""
    step, out, found = BLOCK * item, memoryview(bytearray(len(new))), []
    places = [slice(i, i + step) for i in range(0, len(new), step)]
    for _ in range(4):  # the first compiles the loops
        start = time.process_time()
        packed = [codec.encode(new[at], item, base[at]) for at in places]
        between = time.process_time()
        for at, part in zip(places, packed, strict=True):
            codec.decode(memoryview(part), out[at], item, base[at])
        found.append((between - start, time.process_time() - between))
    encode, decode = (min(times) for times in zip(*found, strict=True))
    return {"size": sum(map(len, packed)), "in": encode, "out": decode, "equal": out == new}


def bounds(new: memoryview, base: memoryview, dtype: str) -> dict[str, float]:
    """Return sizes in bytes that no coder of their kind can go below.

    ``bound``: order-0 entropy of the difference of the values as ordered whole numbers, given the exponent of
    the base. Of float32 a third to a half of the differences occur once in a slice, and counting such would
    learn the slice by heart: there the lowest bits are taken as noise, as few as leave 50 values to a symbol.
    ``counted``: the same with every difference as a symbol of its own; equal where they are not so many.
    ``FM-Delta, ideal``: its code with an ideal coder, that is sign and length of the difference by their
    order-0 entropy, and the bits below the first as they are.
    """
    import numpy as np

    word = np.dtype("<u4" if dtype == "fp32" else "<u2")
    mantissa = {"fp32": 23, "fp16": 10, "bf16": 7}[dtype]
    bits = 8 * word.itemsize
    a, b = (np.frombuffer(part, word).astype(np.int64) for part in (new, base))
    top = 1 << (bits - 1)
    ordered = [np.where(v & top, (2 * top - 1) ^ v, v ^ top) for v in (a, b)]
    change = ordered[0] - ordered[1]
    exponent = (b & (top - 1)) >> mantissa
    given = _bits(exponent)[0]
    found = {}
    for noise in range(bits):
        joint, symbols = _bits(exponent << (bits + 1) | ((change >> noise) + 2 * top))
        found.setdefault("counted", (joint - given) / 8)
        if symbols * 50 <= change.size:
            found["bound"] = (joint - given + noise * change.size) / 8
            break
    length = np.ceil(np.log2(np.abs(change) + 1.0)).astype(np.int64)
    below = float(np.maximum(length - 1, 0).sum())
    found["FM-Delta, ideal"] = (_bits(length * 2 + (change < 0))[0] + below) / 8
    return found


def _bits(symbols: Any) -> tuple[float, int]:
    """Return the order-0 entropy of all symbols together, in bits, and how many there are."""
    import numpy as np

    counts = np.unique(symbols, return_counts=True)[1].astype(np.float64)
    whole = symbols.size * np.log2(symbols.size) - (counts * np.log2(counts)).sum()
    return float(whole), counts.size


WAYS: Mapping[str, Callable[[Path, Path], dict[str, Any]]] = {
    "library-in": library_in,
    "library-out": library_out,
    "packs-in": packs_in,
    "packs-out": packs_out,
}


def main() -> None:
    """Do one thing and print what it cost as JSON."""
    name, *more = sys.argv[1:]
    if name == "dense":
        found = dense(Path(more[0]))
    elif name in ("slices", "derived"):
        found = {"slices": slices, "derived": derived}[name](Path(more[0]), Path(more[1]))
    else:
        found = WAYS[f"{name}-{more[0]}"](Path(more[1]).absolute(), Path(more[2]).absolute())
    print(json.dumps(found))


if __name__ == "__main__":
    main()
