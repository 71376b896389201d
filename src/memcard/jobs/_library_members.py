"""What a checkpoint on the disk consists of, and its manifest."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memcard.architectures import identify
from memcard.core.checkpoint import Checkpoint
from memcard.core.progress import Event, Listener, Progress, silent
from memcard.jobs.digests import files_of
from memcard.jobs.resolve import card_of
from memcard.store.manifest import File, Manifest, Tensor, folder_digest
from memcard.store.survey import Survey, disjoint, survey


@dataclass(frozen=True, slots=True)
class Surveyed:
    """A manifest, and what was read to make it: each file with its survey."""

    manifest: Manifest
    files: tuple[tuple[Path, Survey], ...]


def members(path: Path) -> dict[str, Path]:
    """Return the files of a checkpoint by the names they have in its manifest.

    Of a folder: all regular files and links to such, hidden ones left out; no link to a folder is
    followed. Of an index: itself and its shards. Of a file: itself, under the empty name.
    """
    if path.is_dir():
        return dict(_in_folder(path))
    found = files_of(path)
    return {"": path} if len(found) == 1 else {file.name: file for file in found}


def describe(path: Path, checkpoint: Checkpoint, progress: Listener = silent) -> Surveyed:
    """Read every file of a checkpoint once, and say what it is made of.

    Raises:
        IntegrityError: a file changed while it was read.
        CorruptError: a tensor ends behind the end of its file.
    """
    named = members(path)
    index = {file: i for i, file in enumerate(named.values())}
    extents = {name: checkpoint.extent(name) for name in checkpoint.specs}
    read = []
    total, before = sum(file.stat().st_size for file in named.values()), 0
    for file in named.values():
        runs = disjoint([(e.offset, e.size) for e in extents.values() if e and e.path == file])
        hear = _part_of(progress, before, total)
        offset = getattr(checkpoint, "data_offset", None) if len(named) == 1 else None
        safetensors = checkpoint.format == "safetensors"
        read.append(survey(file, runs, data_offset=offset if safetensors else None, progress=hear))
        before += file.stat().st_size
    files = tuple(
        File(name, s.digests["sha256"], s.stat.st_size, s.skeleton)
        for name, s in zip(named, read, strict=True)
    )
    tensors = {}
    for name, spec in checkpoint.specs.items():
        extent = extents[name]
        number = None if extent is None else index.get(extent.path)
        if extent is None or number is None:
            tensors[name] = Tensor(spec, 0, None, None)
        else:
            digest = read[number].runs.get((extent.offset, extent.size))
            tensors[name] = Tensor(spec, number, extent.offset, digest if extent.size else _EMPTY)
    digests = read[0].digests if "" in named else {"sha256": folder_digest(files)}
    manifest = Manifest(digests, checkpoint.format, files, tensors, **_about(checkpoint))
    return Surveyed(manifest, tuple(zip(named.values(), read, strict=True)))


# BLAKE3 of nothing
_EMPTY = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"


def _about(checkpoint: Checkpoint) -> dict[str, Any]:
    metadata = dict(checkpoint.metadata)
    identity = identify(checkpoint.specs, metadata)
    card = card_of(metadata)
    stated = card.get("kind")
    kind = "delta" if "memcard.delta.mode" in metadata else stated or identity.kind
    recipe = metadata.get("memcard.recipe_id")
    parents = card.get("parents")
    return {
        "metadata": metadata,
        "kind": str(kind),
        "architecture": identity.architecture,
        "made_by": {"import": "file"} if recipe is None else {"recipe": recipe},
        "parents": tuple(map(str, parents)) if isinstance(parents, list) else (),
        "notes": tuple(checkpoint.notes),
    }


def _in_folder(root: Path) -> Iterator[tuple[str, Path]]:
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            if not name.startswith(".") and path.is_file():
                yield path.relative_to(root).as_posix(), path


def _part_of(progress: Listener, before: int, total: int) -> Listener:
    def hear(event: Event) -> None:
        if isinstance(event, Progress):
            event = Progress(event.phase, before + event.done, total)
        progress(event)

    return hear
