"""A fine-tune as what it changes: made from two checkpoints, applied to the first it gives the second."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from memcard.core.atomic import Together
from memcard.core.checkpoint import Checkpoint, Extent
from memcard.core.progress import Listener, Progress, silent
from memcard.core.tensors import DTYPES, Spec
from memcard.errors import MismatchError, NotFoundError, UnsupportedError, UsageError
from memcard.formats import FORMATS, format_for_suffix, open_file
from memcard.jobs._delta_apply import restored_sink
from memcard.jobs._delta_base import check_base
from memcard.jobs._delta_file import (
    HEADER,
    INDEX,
    KEY,
    MODE,
    SAME,
    VERSION,
    DeltaCheckpoint,
    Entry,
    write_index,
)
from memcard.jobs._delta_pack import packed
from memcard.jobs._output import refuse_output
from memcard.jobs.resolve import card_of, digest, fresh_digest, label, locate
from memcard.recipes.bake import pour
from memcard.recipes.nodes import Apply, Source

_INDEX_SUFFIX = ".index.json"


@dataclass(frozen=True, slots=True)
class Delta:
    """A delta that was made, or what one was applied to.

    Attributes:
        out: the file.
        base_sha256: of the base it belongs to.
        result_sha256: of the checkpoint it stands for.
        tensors: number of tensors of that checkpoint.
        changed: how many of them are not the base's.
        nbytes: size of the delta.
        result_bytes: size of the checkpoint.
        out_sha256: of the file that was written; "" for a delta that was made.
        same_file: whether that file is the original to the last byte; None for a delta that was made.
        notes: what a careful user should know, one sentence each.
    """

    out: Path
    base_sha256: str
    result_sha256: str
    tensors: int
    changed: int
    nbytes: int
    result_bytes: int
    out_sha256: str = ""
    same_file: bool | None = None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        return {**asdict(self), "out": str(self.out), "notes": list(self.notes)}


def delta_make(
    base: str | Path,
    tuned: str | Path,
    *,
    out: str | Path,
    overwrite: bool = False,
    threads: int | None = None,
    progress: Listener = silent,
) -> Delta:
    """Write what ``tuned`` changes in ``base``; ``delta_apply`` gives ``tuned`` back, bit for bit.

    Memory is a few blocks of 4 MiB and the packed bytes of the largest tensor, for each thread.

    Args:
        base: the checkpoint that whoever applies the delta must have.
        tuned: the checkpoint to store.
        out: a name that ends in ``.safetensors``.
        overwrite: replace a file that is there.
        threads: None for as many as there are processors, at most 4. Never changes a bit.
        progress: hears how far it is.

    Raises:
        MismatchError: the two have no tensor in common.
        UnsupportedError: ``tuned`` is a lossless delta itself.
        UsageError: ``out`` is there already or no ``.safetensors``, an input is no single file, or
            ``base`` is a delta itself.
    """
    out, paths = Path(out).expanduser(), [_file(ref) for ref in (base, tuned)]
    if format_for_suffix(out) is not FORMATS["safetensors"]:
        raise UsageError(f"{out}: a delta is a .safetensors file. Choose such a name.")
    _refuse(out, paths, overwrite=overwrite)
    sums = [digest(path, progress) for path in paths]
    old, new = (open_file(path) for path in paths)
    try:
        if f"{KEY}mode" in old.metadata:
            raise UsageError(
                f"{paths[0]}: is a delta itself. Use the base it was made from, or make the "
                "checkpoint of it first: memcard convert."
            )
        if not any(name in old.specs for name in new.specs):
            raise MismatchError(f"{paths[1]} and {paths[0]} have no tensor in common: no delta.")
        names = [str(ref) for ref in (base, tuned)]
        metadata = _metadata(names, sums, paths, new)
        return _write(old, new, paths[1], out, metadata, threads or _crew(), progress)
    finally:
        old.close()
        new.close()


def delta_apply(
    base: str | Path,
    delta: str | Path,
    *,
    out: str | Path,
    overwrite: bool = False,
    threads: int | None = None,
    progress: Listener = silent,
) -> Delta:
    """Write the checkpoint that ``delta`` makes of ``base``.

    Every block is checked before it is written. If the delta was made of a safetensors file and ``out`` is
    one, the result is that file to the last byte; else its tensors are the same, bit for bit. What was
    written is read once more for its SHA-256.

    Args:
        base: the base the delta was made from; also in another container, if all tensors are the same.
        delta: the delta.
        out: file to write.
        overwrite: replace a file that is there.
        threads: None for as many as there are processors, at most 4.
        progress: hears how far it is.

    Raises:
        IntegrityError: the delta or the base is damaged; nothing is written.
        MismatchError: another base is wanted; says which.
        UsageError: ``out`` is there already or an input.
    """
    out, paths = Path(out).expanduser(), [_file(ref) for ref in (base, delta)]
    _refuse(out, paths, overwrite=overwrite)
    form = format_for_suffix(out)
    stored = open_file(paths[1])
    result = DeltaCheckpoint(open_file(paths[0]), stored, parts=paths)
    try:
        entries = tuple(result.entries.values())
        notes = check_base(paths[0], entries, stored.metadata, digest=digest, progress=progress)
        exact = form is FORMATS["safetensors"] and HEADER in stored.specs
        sink = restored_sink(out, stored, result) if exact else form.create(out)
        pour(result, sink, threads=threads or _crew(), progress=progress)
        written, wanted = fresh_digest(out, progress), stored.metadata[f"{KEY}result_sha256"]
        if exact and written != wanted:
            notes.append(
                "The delta names another SHA-256 for its result, though every tensor is as it says."
            )
        return Delta(
            *(out, stored.metadata[f"{KEY}base_sha256"], wanted),
            tensors=len(result.specs),
            changed=sum(entry.codec != SAME for entry in entries),
            nbytes=paths[1].stat().st_size,
            result_bytes=out.stat().st_size,
            out_sha256=written,
            same_file=written == wanted,
            notes=tuple(notes),
        )
    finally:
        result.close()


def _file(ref: str | Path) -> Path:
    path = locate(ref)
    if not path.is_file() or path.name.endswith(_INDEX_SUFFIX):
        raise UsageError(
            f"{path}: a delta is between two files. memcard convert makes one file of a folder or of "
            "shards."
        )
    return path


def _refuse(out: Path, paths: Sequence[Path], *, overwrite: bool) -> None:
    node = Apply("overlay", tuple(Source(str(path)) for path in paths))
    refuse_output(out, node, overwrite=overwrite)


def _crew() -> int:
    return min(4, os.cpu_count() or 1)


def _metadata(
    names: Sequence[str], sums: Sequence[str], paths: Sequence[Path], new: Checkpoint
) -> dict[str, str]:
    """Return what the delta says about itself; nothing of this machine is in it."""
    card = {
        "title": f"{label(names[1])} as a delta of {label(names[0])}",
        "kind": "delta",
        "license": card_of(new.metadata).get("license")
        or new.metadata.get("modelspec.license", "unknown"),
        "parents": [sums[0]],
    }
    return {
        f"{KEY}mode": MODE,
        f"{KEY}version": str(VERSION),
        f"{KEY}base_sha256": sums[0],
        f"{KEY}base_name": label(names[0]),
        f"{KEY}base_size": str(paths[0].stat().st_size),
        f"{KEY}result_sha256": sums[1],
        f"{KEY}result_name": label(names[1]),
        f"{KEY}result_size": str(paths[1].stat().st_size),
        "memcard.card": json.dumps(card, ensure_ascii=False, sort_keys=True),
    }


def _write(
    old: Checkpoint,
    new: Checkpoint,
    path: Path,
    out: Path,
    metadata: dict[str, str],
    threads: int,
    progress: Listener,
) -> Delta:
    if taken := [name for name in (INDEX, HEADER) if name in new.specs]:
        raise UnsupportedError(
            f"{path}: has a tensor of the reserved name {taken[0]!r}, as deltas have. If it is one, make "
            "the checkpoint of it first: memcard convert."
        )
    entries: list[Entry] = []
    places: dict[str, tuple[int, int]] = {}
    # Sizes are known only after packing, and the sink wants them first: so it goes through a file.
    spool = Together()
    try:
        with spool.stage(out.with_name(f"{out.name}.packed")) as file:
            at, done, total = 0, 0, sum(spec.nbytes for spec in new.specs.values())
            for entry, blocks in packed(old, new, threads):
                entries.append(entry)
                size = sum(map(len, blocks))
                if size:
                    places[entry.name] = (at, size)
                    _append(file, blocks)
                    at += size
                done += entry.spec.nbytes
                progress(Progress("pack", done, total))
            beside = {INDEX: write_index(entries, new.metadata), **_header(new, path)}
            _pour(out, metadata, beside, places, Path(file.name))
            file.truncate(0)  # what was copied need not reach the disk a second time
    finally:
        spool.discard()
    changed = sum(entry.codec != SAME for entry in entries)
    sums = metadata[f"{KEY}base_sha256"], metadata[f"{KEY}result_sha256"]
    return Delta(out, *sums, len(entries), changed, out.stat().st_size, path.stat().st_size)


def _append(file: BinaryIO, blocks: Sequence[bytes]) -> None:
    for block in blocks:
        left = memoryview(block)
        while left:  # unbuffered, so a write may be short
            left = left[file.write(left) :]


def _pour(
    out: Path,
    metadata: dict[str, str],
    beside: dict[str, bytes],
    places: dict[str, tuple[int, int]],
    spool: Path,
) -> None:
    byte = DTYPES["U8"]
    specs = {name: Spec(byte, (len(part),)) for name, part in beside.items()}
    specs |= {name: Spec(byte, (size,)) for name, (_, size) in places.items()}
    with FORMATS["safetensors"].create(out) as sink:
        sink.begin(specs, metadata)
        for name, part in beside.items():
            sink.write(name, memoryview(part))
        for name, (at, size) in places.items():
            sink.copy(name, Extent(spool, at, size))


def _header(new: Checkpoint, path: Path) -> dict[str, bytes]:
    """Return what stands before the tensors of a safetensors file, so that it can be given back whole."""
    import zstandard

    start = getattr(new, "data_offset", None)
    if new.format != "safetensors" or not isinstance(start, int):
        return {}
    with path.open("rb") as file:
        return {HEADER: zstandard.ZstdCompressor(level=9).compress(file.read(start))}


def describe(delta: str | Path) -> dict[str, str]:
    """Return what a delta says about itself: which base it wants and what it makes.

    Raises:
        NotFoundError: the file is no delta.
    """
    checkpoint = open_file(locate(delta))
    checkpoint.close()
    found = {k.removeprefix(KEY): v for k, v in checkpoint.metadata.items() if k.startswith(KEY)}
    if not found:
        raise NotFoundError(f"{delta}: is no delta (no {KEY}mode in its metadata).")
    return found
