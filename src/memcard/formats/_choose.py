"""Which format a file or folder has: decided by what is in it, never by its name.

Apart from the package's front (``memcard.formats``), because a folder and an index open the files
they consist of in the same way.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from memcard.core.checkpoint import Checkpoint, Format
from memcard.core.registry import Registry
from memcard.errors import NotFoundError, UnsupportedError
from memcard.formats._bare_pickle import refuse_hostile
from memcard.formats._identify import describe

FORMATS: Registry[Format] = Registry("memcard.formats")
HEAD = 4096  # bytes a format may look at to recognise itself
SINGLE = ("safetensors", "torch_zip", "torch_legacy", "gguf")  # formats that are one plain file
# A folder may hold millions of pictures; what makes it a checkpoint shows among the first.
_MOST_NAMES = 10_000
_SHOWN = 3
_CHECKPOINTS = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf")


def open_file(
    path: str | os.PathLike[str], *, salvage: bool = False, among: Collection[str] | None = None
) -> Checkpoint:
    """Open a checkpoint by its content; reads headers only.

    Args:
        path: a file, or a folder that is one checkpoint.
        salvage: list the tensors of a file that asks to run code; nothing is run.
        among: names of the formats to choose from; None for all.

    Raises:
        NotFoundError: there is no such file.
        UnsafeError: the file asks the reader to run code.
        CorruptError: its bytes break the rules of its format.
        UnsupportedError: it is something else; the message says what, and what to do.
    """
    path = Path(path)
    if path.is_dir():
        return _open_folder(path, salvage=salvage)
    head = _head(path)
    for name, form in _formats(among):
        if form.sniff(head):
            return FORMATS[name].open(path, salvage=salvage)
    if among is not None and (kind := sniff_file(path)) is not None:
        raise UnsupportedError(
            f"{path}: is {FORMATS[kind].title} ({kind!r}); only one of {', '.join(among)} can stand "
            "here. Open that file itself."
        )
    refuse_hostile(path, head)
    raise UnsupportedError(f"{path}: {describe(head)}")


def sniff_file(path: str | os.PathLike[str]) -> str | None:
    """Return the name of the format a file or folder has; None if it is none of ours."""
    path = Path(path)
    if path.is_dir():
        names = _names(path)
        return next((name for name, form in _formats(None) if form.sniff_folder(names)), None)
    head = _head(path)
    return next((name for name, form in _formats(None) if form.sniff(head)), None)


def _formats(among: Collection[str] | None) -> Iterator[tuple[str, Format]]:
    return ((name, FORMATS[name]) for name in FORMATS if among is None or name in among)


def _open_folder(path: Path, *, salvage: bool) -> Checkpoint:
    names = _names(path)
    for _, form in _formats(None):
        if form.sniff_folder(names):
            return form.open(path, salvage=salvage)
    raise UnsupportedError(f"{path}: {_describe_folder(names)}")


def _describe_folder(names: Collection[str]) -> str:
    files = sorted(n for n in names if n.lower().endswith(_CHECKPOINTS))
    what = (
        "is a folder, but not one checkpoint: it has no model_index.json (a diffusers pipeline), and "
        "no config.json with weights beside it (one of its components)."
    )
    if not files:
        return f"{what} No checkpoint lies in it; name a file or a folder further down."
    more = f" and {len(files) - _SHOWN} more" if len(files) > _SHOWN else ""
    return f"{what} Name one of its files: {', '.join(files[:_SHOWN])}{more}."


def _names(folder: Path) -> frozenset[str]:
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            names.append(entry.name)
            if len(names) == _MOST_NAMES:
                break
    return frozenset(names)


def _head(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise UnsupportedError(f"{path}: is not a regular file. Copy its content to one first.")
        with path.open("rb", buffering=0) as file:
            return file.read(HEAD)
    except FileNotFoundError:
        raise NotFoundError(f"{path}: there is no such file.") from None
