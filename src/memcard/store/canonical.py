"""JSON that is the same bytes for the same facts, and reading it from files that may be damaged."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from blake3 import blake3

from memcard.errors import CorruptError

MOST: Final = 256 << 20  # bytes; a manifest of 100,000 tensors has 20 MB
_CHECK: Final = 32  # hex digits
_DIGEST: Final = re.compile("[0-9a-f]{64}")


def to_bytes(value: object) -> bytes:
    """Return canonical JSON: ASCII, sorted keys, no spaces, a line feed at the end."""
    text = json.dumps(
        value, ensure_ascii=True, sort_keys=True, separators=(",", ":"), allow_nan=False
    )
    return text.encode("ascii") + b"\n"


def sealed(value: Mapping[str, Any]) -> bytes:
    """Return canonical JSON with the key ``check``: the first digits of the BLAKE3 of what it is without.

    So a flipped bit in a file that may change, and has no digest for its name, is noticed.
    """
    plain = to_bytes({key: item for key, item in value.items() if key != "check"})
    check = blake3(plain).hexdigest()[:_CHECK]
    whole = to_bytes({**value, "check": check})
    if _unsealed(whole, check) != plain:
        raise ValueError("a sealed object needs a key that sorts behind 'check'")
    return whole


def _unsealed(raw: bytes, check: str) -> bytes:
    """Return the bytes without their check, of which a key must follow."""
    return raw.replace(f'"check":"{check}",'.encode(), b"", 1)


def from_bytes(raw: bytes, path: Path) -> dict[str, Any]:
    """Return the JSON object in ``raw``.

    Raises:
        CorruptError: it is something else; names ``path``.
    """
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise CorruptError(
            f"{path}: is not JSON ({error}). Put it back from a backup; see `memcard doctor`."
        ) from None
    if not isinstance(found, dict):
        raise CorruptError(f"{path}: is JSON, but no object. Put it back from a backup.")
    if "check" in found:
        _compare(raw, found.pop("check"), path)
    return found


def _compare(raw: bytes, check: object, path: Path) -> None:
    """Compare a file with its own check; a file without one is believed, as others may write it."""
    right = isinstance(check, str) and check.isascii() and len(check) == _CHECK
    if not right or blake3(_unsealed(raw, str(check))).hexdigest()[:_CHECK] != check:
        raise CorruptError(
            f"{path}: does not fit its own check, so the disk or someone changed it. Put it back from a "
            "backup; see `memcard doctor`."
        )


def read_bytes(path: Path) -> bytes:
    """Return a whole small file.

    Raises:
        FileNotFoundError: there is none.
        CorruptError: it is larger than any such file, or none that can be read to its end.
    """
    # Not to wait for ever where someone put a pipe.
    fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        state = os.fstat(fd)
        if not stat.S_ISREG(state.st_mode):
            raise CorruptError(f"{path}: is no plain file. Remove it, and put back a backup.")
        size = min(state.st_size, MOST) + 1
        raw = os.read(fd, size)
        while part := os.read(fd, size - len(raw)):  # a read may be short
            raw += part
    finally:
        os.close(fd)
    if len(raw) > MOST:
        raise CorruptError(f"{path}: has more than {MOST} bytes, the limit for such a file.")
    return raw


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptError: it holds something else.
    """
    return from_bytes(read_bytes(path), path)


def is_digest(text: str) -> bool:
    """Whether these are 64 lower-case hex digits."""
    return _DIGEST.fullmatch(text) is not None


class Fields:
    """Takes typed values out of a JSON object; the first wrong one is a CorruptError."""

    def __init__(self, found: object, where: str) -> None:
        self._where = where
        if not isinstance(found, dict):
            raise CorruptError(f"{where}: is no JSON object.")
        self._found: dict[str, Any] = found

    def text(self, key: str, default: str | None = None) -> str:
        """Return a text; ``default`` if the key is missing."""
        value = self._found.get(key, default)
        if isinstance(value, str):
            return value
        raise self._wrong(key, "a text")

    def maybe_text(self, key: str) -> str | None:
        """Return a text, or None where the key is missing or null."""
        return None if self._found.get(key) is None else self.text(key)

    def digest(self, key: str) -> str:
        """Return 64 lower-case hex digits."""
        value = self._found.get(key)
        if isinstance(value, str) and is_digest(value):
            return value
        raise self._wrong(key, "64 hex digits")

    def digests(self, key: str) -> tuple[str, ...]:
        """Return a list of digests; they name files, so nothing else may pass."""
        found = self.texts(key)
        if not all(map(is_digest, found)):
            raise self._wrong(key, "a list of 64 hex digits each")
        return found

    def number(self, key: str) -> int:
        """Return a whole number of 0 or more."""
        value = self._found.get(key)
        if type(value) is int and value >= 0:
            return value
        raise self._wrong(key, "a whole number")

    def integer(self, key: str) -> int:
        """Return a whole number, negative ones too: a file may be older than 1970."""
        value = self._found.get(key)
        if type(value) is int:
            return value
        raise self._wrong(key, "a whole number")

    def maybe_number(self, key: str) -> int | None:
        """Return a whole number of 0 or more, or None where it is null."""
        return None if self._found.get(key) is None else self.number(key)

    def list(self, key: str) -> list[Any]:
        """Return a list; an empty one if the key is missing."""
        value = self._found.get(key, [])
        if isinstance(value, list):
            return value
        raise self._wrong(key, "a list")

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of texts."""
        found = self.list(key)
        if all(isinstance(item, str) for item in found):
            return tuple(found)
        raise self._wrong(key, "a list of texts")

    def mapping(self, key: str) -> dict[str, Any]:
        """Return an object; an empty one if the key is missing."""
        value = self._found.get(key, {})
        if isinstance(value, dict):
            return value
        raise self._wrong(key, "an object")

    def text_mapping(self, key: str) -> dict[str, str]:
        """Return an object whose values are texts."""
        found = self.mapping(key)
        if all(isinstance(value, str) for value in found.values()):
            return found
        raise self._wrong(key, "an object of texts")

    def flag(self, key: str) -> bool:
        """Return a truth value."""
        value = self._found.get(key)
        if isinstance(value, bool):
            return value
        raise self._wrong(key, "true or false")

    def _wrong(self, key: str, wanted: str) -> CorruptError:
        shown = repr(self._found.get(key))[:60]
        return CorruptError(f"{self._where}: {key!r} is {shown}; it should be {wanted}.")
