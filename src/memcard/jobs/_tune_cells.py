"""What a search has measured so far, on the disk: interrupted, it goes on where it was.

``cells.jsonl`` has a first line that says for what it holds, then one line a picture; a line that was cut
off by a kill is measured again. Format: docs/spec/tune.md.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from memcard.core.atomic import disk_errors, replacing
from memcard.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

VERSION: Final = 1
_THUMB: Final = 256  # pixels of the longer side


@dataclass(frozen=True, slots=True)
class Cell:
    """One picture of a search: what is varied, and on what."""

    cfg: float
    steps: int
    sampler: str
    schedule: str
    prompt: str
    seed: int

    @property
    def digest(self) -> str:
        """A short name for files."""
        return hashlib.blake2s(json.dumps(asdict(self)).encode(), digest_size=8).hexdigest()


class Cells:
    """Scores by cell, each kept on the disk as soon as it is known."""

    def __init__(self, folder: Path, about: Mapping[str, Any], *, anew: bool = False) -> None:
        """Open or begin.

        Args:
            folder: where; made if it is not there.
            about: everything that must be the same for old numbers to count, JSON values.
            anew: forget what is there.

        Raises:
            UsageError: what is there was measured for something else.
        """
        self.folder, self._path = folder, folder / "cells.jsonl"
        self._scores: dict[Cell, dict[str, float]] = {}
        self.reused = 0
        head = {"memcard_tune": VERSION, **about}
        with disk_errors(folder):
            (folder / "pictures").mkdir(parents=True, exist_ok=True)
            if self._path.is_file() and not anew:
                self._read(head)
            else:
                with replacing(self._path) as file:
                    file.write(f"{json.dumps(head, ensure_ascii=False)}\n".encode())

    def get(self, cell: Cell) -> dict[str, float] | None:
        """Return the scores of a cell; None if it was not measured."""
        return self._scores.get(cell)

    def put(self, cell: Cell, scores: Mapping[str, float], picture: Image) -> None:
        """Keep the scores of a cell and a small copy of its picture."""
        thumb = picture.convert("RGB")
        thumb.thumbnail((_THUMB, _THUMB))
        place = self.picture(cell)
        with replacing(place) as file:
            thumb.save(file, "WEBP", quality=90)
        known = {**self._scores.get(cell, {}), **scores}
        line = json.dumps({"cell": asdict(cell), "scores": known}, ensure_ascii=False)
        with disk_errors(self._path), self._path.open("ab") as log:
            log.write(f"{line}\n".encode())
        self._scores[cell] = known

    def picture(self, cell: Cell) -> Path:
        """Return the file of the small copy."""
        return self.folder / "pictures" / f"{cell.digest}.webp"

    def __len__(self) -> int:
        return len(self._scores)

    def _read(self, head: Mapping[str, Any]) -> None:
        whole = self._path.read_bytes()
        lines = whole.split(b"\n")
        try:
            found = json.loads(lines[0])
        except ValueError:
            found = None
        if found != json.loads(json.dumps(head)):
            raise UsageError(
                f"{self._path}: holds measurements of another search{_difference(found, head)}. "
                "Give another folder with --out, or --force to begin anew."
            )
        good = len(lines[0]) + 1
        for line in lines[1:-1]:
            try:
                entry = json.loads(line)
                self._scores[Cell(**entry["cell"])] = dict(entry["scores"])
            except (ValueError, TypeError, KeyError):
                break
            good += len(line) + 1
        if good < len(
            whole
        ):  # cut off by a kill; appending to half a line would spoil the next one
            with replacing(self._path) as file:
                file.write(whole[:good])
        self.reused = len(self._scores)


def _difference(found: Any, head: Mapping[str, Any]) -> str:
    if not isinstance(found, dict):
        return ""
    names = [name for name in head if found.get(name) != head[name]]
    return f" (other {', '.join(names)})" if names else ""
