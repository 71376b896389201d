"""What a picture says about how it was made: A1111's ``parameters`` text and our own JSON.

Source: the text format that A1111, Forge, SD.Next and Civitai write and read: prompt, negative prompt,
then one line of ``Key: value`` pairs; a value with a comma, a colon or a newline is a JSON string.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from PIL.Image import Image

_NEGATIVE = "Negative prompt: "
_KEY_PUNCTUATION = frozenset(" -_/")
_FEWEST_PAIRS = 3  # fewer on the last line, and it is prompt


@dataclass(frozen=True, slots=True)
class Infotext:
    """Prompt, negative prompt, and the settings in the order they are written."""

    prompt: str
    negative: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)


def write(info: Infotext) -> str:
    """Return the ``parameters`` text."""
    lines = [info.prompt]
    if info.negative:
        lines.append(_NEGATIVE + info.negative)
    lines.append(", ".join(f"{key}: {_quoted(value)}" for key, value in info.settings.items()))
    return "\n".join(lines)


def read(text: str) -> Infotext:
    """Take a ``parameters`` text apart; what does not look like settings is prompt."""
    *lines, last = text.strip().split("\n")
    pairs = _pairs(last)
    if len(pairs) < _FEWEST_PAIRS:
        lines, pairs = [*lines, last], []
    at = next((i for i, line in enumerate(lines) if line.startswith(_NEGATIVE)), len(lines))
    negative = "\n".join(lines[at:]).removeprefix(_NEGATIVE)
    return Infotext("\n".join(lines[:at]), negative, dict(pairs))


def _pairs(line: str) -> list[tuple[str, str]]:
    """Read ``Key: value`` pairs between commas; what has no key is passed over."""
    found, at = [], 0
    while (colon := line.find(":", at)) >= 0:
        key = line[at:colon].rpartition(",")[2].strip()
        value, at = _value(line, colon + 1)
        if len(key) > 1 and all(c.isalnum() or c in _KEY_PUNCTUATION for c in key):
            found.append((key, value))
    return found


def _value(line: str, start: int) -> tuple[str, int]:
    """Return the value that begins at ``start``, and where the next pair does."""
    start += len(line[start:]) - len(line[start:].lstrip())
    if line.startswith('"', start):
        try:
            value, end = json.JSONDecoder().raw_decode(line, start)
        except ValueError:
            pass  # a quotation mark that is not closed is one like others
        else:
            if line[end:].lstrip().startswith(",") or not line[end:].strip():
                return str(value), end + 1
    end = line.find(",", start)
    end = len(line) if end < 0 else end
    return line[start:end].strip(), end + 1


def _quoted(value: str) -> str:
    plain = value == value.strip() and not re.search(r'[,:\n"]', value)
    return value if plain else json.dumps(value, ensure_ascii=False)


def hashes(pairs: Sequence[tuple[str, str]]) -> str:
    """Return A1111's ``Lora hashes`` value: ``name: hash, name: hash``."""
    return ", ".join(f"{name}: {value}" for name, value in pairs)


def save_png(image: Image, file: BinaryIO, text: str, facts: Mapping[str, Any]) -> None:
    """Write a PNG that carries ``text`` as ``parameters`` and ``facts`` as ``memcard``.

    The same picture and texts give the same bytes.
    """
    from memcard.generation.picture import texts

    own = json.dumps(facts, sort_keys=True, ensure_ascii=False)
    image.save(file, "PNG", pnginfo=texts({"parameters": text, "memcard": own}))
