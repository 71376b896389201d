"""Finished cells of comparisons, kept on the disk by all that decides their pixels.

A cell is one PNG whose name is its key. It is written whole or not at all, and checked when it is read; a
damaged one is made again. All of it can be made again, so the oldest go when there is too much.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from weakref import finalize

from memcard.core.atomic import replacing
from memcard.core.digest_cache import cache_folder
from memcard.generation.infotext import save_png

if TYPE_CHECKING:
    from memcard.jobs._compare_cells import Planned
    from memcard.jobs._pictures import Result

# To be raised when the same settings come to make other pixels: old cells are not found any more.
ARITHMETIC: Final = 1
MOST_BYTES: Final = 4 << 30
_FOLDER: Final = "compare-1"  # the number is that of the layout of the folder
_RATES: Final = "rates.json"
_KEY: Final = "compare_key"


def key_of(cell: Planned, device: str, dtype: str, others: Sequence[str] = ()) -> str:
    """Return what names the picture of a cell: 64 hex digits of everything that decides its pixels.

    The prompt stands there as it is, files by their SHA-256, settings as they were resolved. The
    versions of torch and diffusers are part of it: they may change the last bit of a value.

    Args:
        cell: its model, LoRAs, VAE, prompt, seed and settings.
        device: as the user says it.
        dtype: as the user says it.
        others: SHA-256 of text encoders and embeddings.
    """
    from memcard.generation.settings import NAMES

    assert cell.settings is not None, "the caller looked"  # noqa: S101
    settings = {name: getattr(cell.settings, name) for name in NAMES}
    said = {
        "arithmetic": ARITHMETIC,
        "engine": _engine(),
        "device": _device(device),
        "dtype": dtype,
        "checkpoint": cell.model.sha256,
        "loras": [[one.sha256, strength] for one, strength in cell.loras],
        "named": [[one.lora.sha256, one.strength, one.text_strength] for one in cell.named],
        "others": list(others),
        "vae": cell.vae.sha256 if cell.vae else None,
        "prompt": cell.prompt,
        "seed": cell.seed,
        "settings": settings,
    }
    text = json.dumps(said, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


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
        facts = {**result.facts(), "prompt": picture.prompt, "seed": picture.seed, _KEY: key}
        path = self.path(key)
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
            self.folder.mkdir(parents=True, exist_ok=True)
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
