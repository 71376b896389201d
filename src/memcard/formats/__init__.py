"""Containers that hold named tensors. A file is opened by what it contains, not by its name."""

from __future__ import annotations

import os
from pathlib import Path

from memcard.core.checkpoint import FileSink, Format
from memcard.errors import UnsupportedError, UsageError
from memcard.formats._choose import FORMATS, open_file, sniff_file

__all__ = [
    "FORMATS",
    "create",
    "format_for_suffix",
    "is_checkpoint_folder",
    "open_file",
    "sniff_file",
]

_FOLDER, _SHARDED = "diffusers_folder", "sharded"
_SEPARATORS = tuple({"/", os.sep})


def is_checkpoint_folder(path: str | os.PathLike[str]) -> bool:
    """Whether a folder is one checkpoint, rather than a place where checkpoints lie."""
    return Path(path).is_dir() and sniff_file(path) is not None


def names_folder(path: str | os.PathLike[str]) -> bool:
    """Whether a checkpoint of this name is a folder: it ends in ``/``, is one, or has no suffix.

    A ``Path`` loses the ``/``: ask with the text the user gave.
    """
    return os.fspath(path).endswith(_SEPARATORS) or Path(path).is_dir() or not Path(path).suffix


def create(
    path: str | os.PathLike[str], *, max_shard: int | None = None, overwrite: bool = False
) -> FileSink:
    """Return a sink that becomes ``path``; the name decides the format.

    ``model.safetensors`` is a file, or with ``max_shard`` and more bytes of tensors than that
    ``model-00001-of-00003.safetensors`` … and ``model.safetensors.index.json``. A name of that last
    kind always gives an index. ``model/`` is a diffusers folder (see ``names_folder``).

    Args:
        path: as the user gave it.
        max_shard: most bytes of tensors in one file; a larger tensor has a file of its own.
        overwrite: replace a folder or a set of shards that is there. A single file is replaced in
            any case; whether it may be is the caller's question.

    Raises:
        UnsupportedError: no format is written under this name, or it cannot be cut into shards.
        UsageError: ``max_shard`` is not positive. By ``begin``: something is there already.
    """
    from memcard.formats._folder_sink import FolderSink
    from memcard.formats._shards import ShardedSink

    form, target = format_for_suffix(path), Path(path)
    if max_shard is not None and max_shard < 1:
        raise UsageError(f"max_shard is {max_shard} bytes; it must be at least 1.")
    if form is FORMATS[_FOLDER]:
        return FolderSink(target, max_shard=max_shard, overwrite=overwrite)
    if form is FORMATS[_SHARDED] or (max_shard is not None and form is FORMATS["safetensors"]):
        return ShardedSink(target, max_shard=max_shard, overwrite=overwrite)
    if max_shard is not None:
        raise UnsupportedError(
            f"{path}: {form.title} cannot be cut into shards. End the name in .safetensors, or "
            "leave --max-shard out."
        )
    return form.create(target)


def format_for_suffix(path: str | os.PathLike[str]) -> Format:
    """Return the format to write under this name.

    Raises:
        UnsupportedError: no format has this suffix.
    """
    if names_folder(path):
        return FORMATS[_FOLDER]
    name = Path(path).name.lower()
    suffixes = {suffix: form for form in FORMATS.values() for suffix in form.suffixes}
    for suffix in sorted(suffixes, key=len, reverse=True):  # .safetensors.index.json is also .json
        if name.endswith(suffix):
            return suffixes[suffix]
    raise UnsupportedError(
        f"{path}: no format is written as {Path(path).suffix!r}. "
        f"End the name in one of: {', '.join(suffixes)}; or in / for a diffusers folder."
    )
