"""Every checkpoint below the folders a user names; links to folders are followed once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from memcard.formats import is_checkpoint_folder
from memcard.formats._dcp_index import INDEX as SHARDED_SAVE
from memcard.formats._dcp_index import NAME as PIECE
from memcard.formats._folder_names import is_pipeline, main_stem

SUFFIXES = frozenset(
    {".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".pkl", ".gguf", ".pt2"}
)
_INDEX = ".index.json"


def below(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield files as they are given, and what lies in folders in the order of their names.

    A folder that is one checkpoint (a diffusers folder) is yielded itself, not its parts. Shards are
    yielded as the index that lists them. Hidden folders are passed over.
    """
    seen: set[tuple[int, int]] = set()
    for path in paths:
        if path.is_dir() and not is_checkpoint_folder(path):
            yield from _in_folder(path, seen)
        else:
            yield path


def with_loose(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the same paths, and behind each folder that is one checkpoint the others that lie in it.

    A clone of a model's repository often has its pipeline in parts and the same, or more, as single files
    beside them. What no loader of the folder would take is a checkpoint of its own.
    """
    for path in paths:
        yield path
        if path.is_dir():
            yield from _loose(path)


def _loose(folder: Path) -> Iterator[Path]:
    try:
        names = sorted(e.name for e in os.scandir(folder) if _is(e.is_file))
        everything = os.listdir(folder)  # noqa: PTH208  # names are asked for
    except OSError:
        return
    if SHARDED_SAVE in names:
        names = [name for name in names if not PIECE.fullmatch(name)]
    indexes = [name for name in names if name.endswith(_INDEX)]
    taken = None if is_pipeline(everything) else main_stem(names)
    for name in names:
        if _is_checkpoint(name, indexes) and (taken is None or main_stem([name]) != taken):
            yield folder / name


def _in_folder(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    try:
        state = folder.stat()
        if (state.st_dev, state.st_ino) in seen:
            return
        seen.add((state.st_dev, state.st_ino))
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except PermissionError:
        yield folder  # whoever looks at it will say why it cannot be looked at
        return
    indexes = [entry.name for entry in entries if entry.name.endswith(_INDEX)]
    for entry in entries:
        path = Path(entry.path)
        if _is(entry.is_dir):
            if entry.name.startswith("."):
                continue
            if _holds_one(path):
                yield path
            else:
                yield from _in_folder(path, seen)
        elif _is(entry.is_file) and _is_checkpoint(entry.name, indexes):
            yield path


def _is(question: Callable[[], bool]) -> bool:
    """Ask about an entry; a link that leads nowhere or in a circle is neither file nor folder."""
    try:
        return question()
    except OSError:
        return False


def _holds_one(folder: Path) -> bool:
    try:
        return is_checkpoint_folder(folder) and _has_weights(folder)
    except OSError:
        return False  # walked into, and told there


def _has_weights(folder: Path) -> bool:
    """Tell a diffusers folder from the configs of one, which are nothing to look at."""
    return any(path.suffix in SUFFIXES for path in folder.rglob("*"))


def _is_checkpoint(name: str, indexes: list[str]) -> bool:
    if name.endswith(_INDEX):
        return name.removesuffix(_INDEX).endswith(tuple(SUFFIXES))
    stem, suffix = Path(name).stem, Path(name).suffix
    if suffix.lower() not in SUFFIXES or name.startswith("."):
        return False
    # model-00001-of-00003.safetensors belongs to model.safetensors.index.json
    return not any("-of-" in stem and stem.startswith(f"{i.split('.')[0]}-") for i in indexes)
