"""What a dialect of metadata is, and what it may look at: one checkpoint and the files beside it.

Files beside a checkpoint come from strangers: they are read up to a limit, only if they are regular files,
and a broken one becomes a note on the card, never an error.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

from memcard.core.card import Card

# A sidecar of Civitai has 20 to 500 kB, one with a picture inside 100 kB more. JSON of this size that is
# made to be large in memory takes 120 MB.
SIDECAR_BYTES: Final = 2 << 20
TEXT_BYTES: Final = 64 << 10  # of a description or a README's front matter
_ENDINGS: Final = (".safetensors.index.json", ".bin.index.json")


@dataclass(frozen=True)
class Subject:
    """What a card is read from.

    Attributes:
        path: the checkpoint, a file or a folder; need not exist.
        metadata: what the file says about itself.
        beside: the names in its folder, as ``names_in`` gives them; None: they are listed when needed.
            Whoever reads the cards of a whole folder lists it once.
    """

    path: Path
    metadata: Mapping[str, str] = field(default_factory=dict)
    beside: Mapping[str, str] | None = None

    @cached_property
    def stem(self) -> str:
        """The name that sidecars begin with."""
        name = self.path.name
        for ending in _ENDINGS:
            if name.lower().endswith(ending):
                return name[: -len(ending)]
        return name if self.path.is_dir() else self.path.stem

    @cached_property
    def _names(self) -> Mapping[str, str]:
        return names_in(self.path.parent) if self.beside is None else self.beside

    def named(self, suffix: str) -> str | None:
        """Return the name of the file beside the checkpoint that ends in ``suffix``; None if none."""
        name = f"{self.stem}{suffix}"
        found = self._names.get(name.lower())
        return None if found is None or found == self.path.name else found

    def text(self, suffix: str, limit: int = TEXT_BYTES) -> str | None:
        """Return the text of such a file; None if there is none.

        Raises:
            OSError: the system does not let us read it.
            ValueError: it is too large, no regular file, or no text; names it.
        """
        name = self.named(suffix)
        if name is None:
            return None
        try:
            return read_text(self.path.parent / name, limit)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None

    def json(self, suffix: str) -> dict[str, Any] | None:
        """Return the JSON object in such a file; None if there is none.

        Raises:
            OSError: the system does not let us read it.
            ValueError: too large, no regular file, or no JSON object.
        """
        text = self.text(suffix, SIDECAR_BYTES)
        try:
            return None if text is None else json_object(text)
        except ValueError as error:
            raise ValueError(f"{self.named(suffix)}: {error}") from None


def names_in(folder: Path) -> Mapping[str, str]:
    """Return the names in a folder, by their lower case; none if it cannot be listed.

    A sidecar may be ``X.JSON`` on a disk that came from elsewhere. Of two names that differ only in case
    the first in the order of the alphabet counts.
    """
    try:
        with os.scandir(folder) as entries:
            names = sorted((entry.name for entry in entries), reverse=True)
    except OSError:
        return {}
    return {name.lower(): name for name in names}


def read_text(path: Path, limit: int) -> str:
    """Return a small UTF-8 text file, with or without a byte order mark.

    Raises:
        OSError: the system does not let us read it.
        ValueError: larger than ``limit`` bytes, no regular file, or not UTF-8.
    """
    raw = read_head(path, limit + 1)
    if len(raw) > limit:
        raise ValueError(f"is larger than {limit} bytes")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"is no UTF-8 text: byte {error.start} is odd") from None


def read_head(path: Path, limit: int) -> bytes:
    """Return the first ``limit`` bytes of a file.

    Raises:
        OSError: the system does not let us read it.
        ValueError: no regular file.
    """
    if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
        raise ValueError("is no regular file")
    with path.open("rb") as file:
        return file.read(limit)


def json_object(text: str) -> dict[str, Any]:
    """Return a JSON object.

    Raises:
        ValueError: the text is something else; says what in a few words.
    """
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError("is JSON nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError("is not a JSON object")  # noqa: TRY004  # of a file, not of a caller
    return found


@runtime_checkable
class Dialect(Protocol):
    """A way in which some tool writes down what a checkpoint is.

    The file name in ``memcard/cards`` is its public name.

    Attributes:
        title: a few words for people.
        source: where the dialect is described or which program writes it.
        trust: who wins when two contradict each other, higher first. What a person wrote down stands
            above what a site or a trainer filled in.
    """

    title: str
    source: str
    trust: int

    def read(self, subject: Subject) -> Card | None:
        """Return what the dialect says of a checkpoint; None if it says nothing.

        Values that make no sense are kept in ``extra`` and noted.

        Raises:
            OSError, ValueError: what it should read is broken; the caller makes a note of it.
        """
        ...


@runtime_checkable
class Writer(Protocol):
    """A dialect that can also be written, as a file beside the checkpoint.

    Attributes:
        suffix: of that file, after the stem of the checkpoint's name.
    """

    suffix: str

    def write(self, card: Card, old: Mapping[str, Any]) -> dict[str, Any]:
        """Return the JSON object of the sidecar.

        Args:
            card: what to say; a field without a value changes nothing.
            old: the sidecar that is there, {} if none; what the dialect does not know stays.
        """
        ...
