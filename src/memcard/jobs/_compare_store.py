"""Finished cells of comparisons, kept on the disk by all that decides their pixels.

A cell is one PNG whose name is its key. It is written whole or not at all, and checked when it is read; a
damaged one is made again. All of it can be made again, so the oldest go when there is too much.
The format is that of docs/spec/compare-cache.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from functools import cache
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from weakref import finalize

from memcard.core.atomic import replacing
from memcard.core.digest_cache import cache_folder
from memcard.errors import CorruptError, UnsupportedError
from memcard.generation.infotext import save_png

if TYPE_CHECKING:
    from memcard.jobs._compare_cells import Planned
    from memcard.jobs._pictures import Result

# To be raised when the same settings come to make other pixels: old cells are not found any more.
ARITHMETIC: Final = 1
MOST_BYTES: Final = 4 << 30
VERSION: Final = 1  # of the layout of the folder
_FOLDER: Final = f"compare-{VERSION}"
_MARK: Final = "memcard-compare.json"
_VERSION: Final = "memcard_compare"
_RATES: Final = "rates.json"
_KEY: Final = "compare_key"
# Settings that stand in every key. Later ones stand there only where they do something, so that they do not
# make all older cells nobody's.
_FIRST: Final = frozenset((
    "sampler", "schedule", "steps", "cfg", "width", "height", "negative", "prediction_type", "clip_skip",
    "guidance", "cfg_rescale", "cfg_low", "cfg_high", "threshold", "frames", "fps",
))  # fmt: skip


def key_of(cell: Planned, device: str, dtype: str, others: Sequence[str] = ()) -> str:
    """Return what names the picture of a cell: the SHA-256 of ``key_text``."""
    text = key_text(cell, device, dtype, others)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def key_text(cell: Planned, device: str, dtype: str, others: Sequence[str] = ()) -> str:
    """Return everything that decides the pixels of a cell, as JSON.

    The prompt stands there as it is, files by their SHA-256, settings as they were resolved. The
    versions of torch and diffusers are part of it: they may change the last bit of a value.

    Args:
        cell: its model, LoRAs, VAE, prompt, seed and settings.
        device: as the user says it.
        dtype: as the user says it.
        others: SHA-256 of text encoders and embeddings; what the library lends is the model's.
    """
    assert cell.settings is not None, "the caller looked"  # noqa: S101
    used = {f: getattr(cell.settings, f.name) for f in fields(cell.settings) if f.name != "origin"}
    settings = {f.name: v for f, v in used.items() if f.name in _FIRST or v != f.default}
    said = {
        "arithmetic": ARITHMETIC,
        "engine": _engine(),
        "device": _device(device),
        "dtype": dtype,
        "checkpoint": cell.model.sha256,
        "loras": [[one.sha256, strength] for one, strength in cell.loras],
        "named": [[one.lora.sha256, one.strength, one.text_strength] for one in cell.named],
        "others": [*others, *cell.model.lent],
        "vae": cell.vae.sha256 if cell.vae else None,
        "prompt": cell.prompt,
        "seed": cell.seed,
        "settings": settings,
    }
    return json.dumps(said, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


@cache
def _engine() -> tuple[str, ...]:
    return version("torch"), version("diffusers")


@cache
def _device(name: str) -> str:
    from memcard.generation.load import device_named

    return device_named(name).type


class Store:
    """A folder of finished cells."""

    def __init__(self, folder: str | Path | None = None) -> None:
        """Open a store.

        Args:
            folder: where cells are kept; None: in memcard's folder for what can be made again. If
                there is none (``MEMCARD_CACHE`` is empty), they last as long as this object.
        """
        place = None if folder is None else Path(folder).expanduser()
        if place is None and (usual := cache_folder()) is not None:
            place = usual / _FOLDER
        self.lasting = place is not None
        if place is None:
            place = Path(tempfile.mkdtemp(prefix="memcard-compare-"))
            finalize(self, shutil.rmtree, place, ignore_errors=True)
        self.folder = place
        self._refuse_newer()

    def _refuse_newer(self) -> None:
        """Leave alone what another version keeps; a folder that says nothing is of version 1."""
        mark = self.folder / _MARK
        try:
            version = json.loads(mark.read_text("utf-8"))[_VERSION]
        except (FileNotFoundError, NotADirectoryError):
            return
        except (ValueError, KeyError, TypeError):
            version = None
        if type(version) is not int or version < 1:
            raise CorruptError(
                f"{mark}: does not say which version of comparisons is kept here. Remove this file; the "
                "pictures are checked one by one when they are used."
            )
        if version > VERSION:
            raise UnsupportedError(
                f"{self.folder}: pictures of comparisons are kept here in version {version}; this memcard "
                f"knows version {VERSION}. Update memcard, or name another folder with --cache."
            )

    def _mark(self) -> None:
        """Say which version this is, in a folder that does not say it yet."""
        mark = self.folder / _MARK
        if not mark.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(mark) as file:
                file.write(f"{json.dumps({_VERSION: VERSION})}\n".encode())

    def path(self, key: str) -> Path:
        """Return where a cell is, or would be."""
        return self.folder / key[:2] / f"{key}.png"

    def has(self, key: str) -> bool:
        """Tell whether a whole cell is there; reads it."""
        path = self.path(key)
        if not path.is_file() or read_cell(path).get(_KEY) != key:
            return False
        with suppress(OSError):
            os.utime(path)  # it was of use: others go first
        return True

    def put(self, key: str, result: Result) -> Path:
        """Keep the one picture of a run with all that is said about it."""
        (picture,) = result.pictures
        facts = {**result.facts_of(picture), _KEY: key}
        path = self.path(key)
        self._mark()
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            save_png(picture.image, file, picture.infotext, facts)
        return path

    def rates(self) -> dict[str, dict[str, float]]:
        """Return what was measured: by kind of model, seconds for loading, a picture, a unit of work."""
        try:
            found = json.loads((self.folder / _RATES).read_text("utf-8"))
            return {
                str(key): {n: float(rate[n]) for n in ("load", "fixed", "unit")}
                for key, rate in found.items()
            }
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return {}

    def keep_rates(self, measured: Mapping[str, Mapping[str, float]]) -> None:
        """Remember what was measured beside what is known."""
        if not measured:
            return
        text = json.dumps({**self.rates(), **measured}, sort_keys=True)
        with suppress(OSError):  # only estimates
            self._mark()
            with replacing(self.folder / _RATES) as file:
                file.write(text.encode())

    def prune(self, keep: frozenset[str], most: int = MOST_BYTES) -> int:
        """Remove the cells that were of no use for longest until ``most`` bytes are left.

        Args:
            keep: keys that stay whatever their age.
            most: bytes.

        Returns:
            How many were removed.
        """
        if not self.lasting:
            return 0
        with suppress(OSError):
            paths = self.folder.glob("[0-9a-f][0-9a-f]/*.png")
            stats = [(path.stat(), path) for path in paths]
            found = sorted((stat.st_mtime_ns, stat.st_size, path) for stat, path in stats)
            total, gone = sum(size for _, size, _ in found), 0
            for _, size, path in found:
                if total <= most:
                    break
                if path.stem not in keep:
                    path.unlink(missing_ok=True)
                    total, gone = total - size, gone + 1
            return gone
        return 0


def read_cell(path: Path) -> dict[str, Any]:
    """Return what a cell says about itself, with its A1111 text; {} if it is damaged."""
    from PIL import Image

    try:
        with Image.open(BytesIO(path.read_bytes())) as image:
            image.load()  # checks every chunk, and that none is missing
            facts = json.loads(image.info["memcard"])
            return {**facts, "parameters": image.info["parameters"]}
    except (OSError, ValueError, KeyError, TypeError, SyntaxError):
        return {}
