"""When a file or pack was found sound last: so that a long verification can go on where it was stopped.

A text file in the cache folder of this machine, one line for each thing and time; it grows by a line at a
time, so what is done stays done whatever happens, and a line that was torn off is passed over.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from blake3 import blake3

from memcard.core.digest_cache import cache_folder

_DIGITS: Final = 32
_SLACK: Final = 4  # times as many lines as things before the file is written anew


class When:
    """What one library's verifications found sound. Without a cache folder nothing is remembered."""

    def __init__(self, library_id: str, folder: Path | None = None) -> None:
        folder = cache_folder() if folder is None else folder
        self._path = None if folder is None else folder / f"verified-1-{library_id}.txt"
        self._times: dict[str, int] = {}
        if self._path is not None:
            self._load(self._path)

    def age(self, what: str) -> float:
        """Return the seconds since a thing was found sound; infinite if it never was."""
        then = self._times.get(_key(what))
        return float("inf") if then is None else max(0.0, time.time() - then)

    def note(self, what: str) -> None:
        """Remember that a thing is sound now."""
        key, now = _key(what), int(time.time())
        self._times[key] = now
        if self._path is not None:
            with suppress(OSError), self._path.open("a", encoding="ascii") as file:
                file.write(f"{key} {now}\n")

    def _load(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = path.read_text("ascii", errors="replace").splitlines()
        except OSError:
            return
        for line in lines:
            key, _, at = line.partition(" ")
            if len(key) == _DIGITS and at.isdecimal():
                self._times[key] = int(at)
        if len(lines) > _SLACK * len(self._times) + _SLACK:
            with suppress(OSError):
                self._tidy(path)

    def _tidy(self, path: Path) -> None:
        new = path.with_name(f"{path.name}.{os.getpid()}")
        new.write_text("".join(f"{key} {at}\n" for key, at in self._times.items()), "ascii")
        new.replace(path)


def _key(what: str) -> str:
    return blake3(what.encode("utf-8", "surrogateescape")).hexdigest()[:_DIGITS]
