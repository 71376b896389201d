"""What lies in a folder: the names, the configs as text, and the files that only go along.

A folder from elsewhere may hold links to anything. Weights are read through them, as every loader does;
files that a conversion would copy must not lead out of it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from memcard.errors import CorruptError
from memcard.formats._folder_names import MODEL_INDEX, PICKLES, is_weights
from memcard.formats._folder_sink import PREFIX
from memcard.formats._safetensors_header import why_not_json

_CONFIG_BYTES = 64 << 10
_MOST_FILES = 10_000
_DEPTH = 3  # folders below the one named, of which side files are taken


def list_files(path: Path) -> dict[Path, list[str]]:
    """Return every folder, relative, with the names of its files; hidden ones are passed over."""
    return dict(_walk(path))


def _walk(path: Path) -> Iterator[tuple[Path, list[str]]]:
    left = _MOST_FILES
    for folder, folders, names in os.walk(path, followlinks=True):  # depth and number are bounded
        here = Path(folder).relative_to(path)
        deep = len(here.parts) >= _DEPTH
        folders[:] = [] if deep else sorted(n for n in folders if not n.startswith("."))
        files = [n for n in names if not n.startswith(".") and (Path(folder) / n).is_file()]
        kept = sorted(files)[:left]
        yield here, kept
        left -= len(kept)
        if left <= 0:
            return


def side_files(
    path: Path, listing: Mapping[Path, Sequence[str]], notes: list[str]
) -> tuple[dict[str, str], dict[str, Path]]:
    """Return configs as metadata, and every other file that is not weights."""
    configs: dict[str, str] = {}
    files: dict[str, Path] = {}
    outside, broken = [], []
    for folder, names in listing.items():
        for name in names:
            place, file = (folder / name).as_posix(), path / folder / name
            if is_weights(name) or name.lower().endswith(PICKLES):
                continue
            if not _stays_inside(file, path):
                outside.append(place)
            elif (text := _config_text(name, file)) is not None:
                configs[PREFIX + place] = text
                broken += [place] if not _is_json(text) else []
            else:
                files[place] = file
    if outside:
        notes.append(f"Links that lead out of the folder are left out: {', '.join(outside[:3])}.")
    if broken:
        notes.append(f"Not JSON, so that no loader can read it: {', '.join(broken[:3])}.")
    first = sorted(configs, key=lambda place: place != PREFIX + MODEL_INDEX)
    return {place: configs[place] for place in first}, files


def _stays_inside(file: Path, folder: Path) -> bool:
    """Whether a copy of the file gives away nothing that its owner keeps elsewhere.

    The cache of Hugging Face links from ``snapshots/REVISION/…`` to ``blobs/DIGEST`` beside it.
    """
    real, root = file.resolve(), folder.resolve()
    caches = [p.parent / "blobs" for p in (root, *root.parents) if p.name == "snapshots"]
    return real.is_relative_to(root) or any(real.is_relative_to(blobs) for blobs in caches)


def _config_text(name: str, file: Path) -> str | None:
    if not (name == MODEL_INDEX or name.endswith("config.json")):
        return None
    if file.stat().st_size > _CONFIG_BYTES:
        return None
    try:
        return file.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return None


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def read_config(path: Path) -> dict[str, Any]:
    """Return the object in a config.

    Raises:
        CorruptError: it is none.
    """
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(_CONFIG_BYTES).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CorruptError(
            f"{path}: is not JSON ({why_not_json(error)}). Get it again from its source."
        ) from None
    if not isinstance(found, dict):
        raise CorruptError(f"{path}: is not a JSON object. Get it again from its source.")
    return found


def is_class(value: Any) -> bool:
    """Whether an entry of model_index.json names a class: ``["diffusers", "UNet2DConditionModel"]``."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[1], str)
