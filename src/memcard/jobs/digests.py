"""The digests of every file of a checkpoint: one for a file, several for shards and folders."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from memcard.core.digest import NAMES
from memcard.core.progress import Event, Listener, Progress, silent
from memcard.errors import FormatError
from memcard.formats import open_file
from memcard.jobs.resolve import known_digests, locate

_INDEX = ".index.json"
_WEIGHTS = frozenset({".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf"})


def digests(
    ref: str | Path, *, only: Collection[str] = NAMES, progress: Listener = silent
) -> dict[str, dict[str, str]]:
    """Return the digests of each file a checkpoint is made of; every file is read once.

    What is remembered is not believed here, so damage shows; what is found is remembered.

    Args:
        ref: a file, an index of shards, a folder, or a name of the starter.
        only: which digests, see ``memcard.core.digest.digests_file``.
        progress: hears how many bytes of all files are read.

    Returns:
        Path relative to the checkpoint's own folder, to digests by name. A damaged or unsafe file
        has digests too; they are how people look it up.

    Raises:
        NotFoundError: nothing has this name.
        IntegrityError: a file changed while it was read.
    """
    path = locate(ref)
    files = files_of(path)
    folder = path if path.is_dir() else path.parent
    total, before = sum(file.stat().st_size for file in files), 0
    found = {}
    for file in files:

        def hear(event: Event, before: int = before) -> None:
            if isinstance(event, Progress):
                progress(Progress("digests", before + event.done, total))

        offset = data_offset(file)
        name = file.relative_to(folder).as_posix()
        found[name] = known_digests().fresh(file, data_offset=offset, only=only, progress=hear)
        before += file.stat().st_size
    return found


def files_of(path: Path) -> tuple[Path, ...]:
    """Return the files of a checkpoint: itself, the shards of an index, the weights in a folder."""
    if path.is_dir():
        return tuple(
            file
            for file in sorted(path.rglob("*"))
            if file.suffix.lower() in _WEIGHTS and file.is_file() and not file.name.startswith(".")
        )
    if path.name.endswith(_INDEX):
        return (path, *_shards(path))
    return (path,)


def data_offset(path: Path) -> int | None:
    """Return where the tensors of a safetensors file begin; None for all other files."""
    try:
        checkpoint = open_file(path)
    except FormatError:
        return None
    offset: int | None = getattr(checkpoint, "data_offset", None)
    checkpoint.close()
    return offset


def _shards(index: Path) -> tuple[Path, ...]:
    """Return the shards an index names, that are there; a broken index names none."""
    try:
        names = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ()
    plain = sorted(name for name in names if isinstance(name, str) and Path(name).name == name)
    return tuple(shard for name in plain if (shard := index.parent / name).is_file())
