"""A1111's ``parameters`` text: prompt, negative prompt, then one line of ``Key: value`` pairs.

It is what A1111, Forge, SD.Next and Civitai write and read. A value with a comma, a colon or a newline is a
JSON string. ``docs/spec/image-metadata.md`` has the keys that memcard writes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO, Final

if TYPE_CHECKING:
    from PIL.Image import Image

_NEGATIVE: Final = "Negative prompt:"
_KEY_PUNCTUATION: Final = frozenset(" -_/")
_FEWEST_PAIRS: Final = 3  # fewer on the last line, and it is prompt
_MOST_PAIRS: Final = (
    1000  # values looked at as JSON: a hostile line would cost its square otherwise
)
_AFTER: Final = 20  # lines that extensions write behind the line of pairs, at most


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
        lines.append(f"{_NEGATIVE} {info.negative}")
    lines.append(", ".join(f"{key}: {_quoted(value)}" for key, value in info.settings.items()))
    return "\n".join(lines)


def read(text: str) -> Infotext:
    """Take a ``parameters`` text apart; what does not look like settings is prompt."""
    lines = text.strip().split("\n")
    pairs = _pairs(lines[-1])
    if len(pairs) >= _FEWEST_PAIRS:
        lines = lines[:-1]
    else:
        lines, pairs = _without_what_follows(lines)
    at = next((i for i, line in enumerate(lines) if line.startswith(_NEGATIVE)), len(lines))
    negative = "\n".join(lines[at:]).removeprefix(_NEGATIVE).removeprefix(" ")
    return Infotext("\n".join(lines[:at]), negative, dict(pairs))


def _without_what_follows(lines: list[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Find the line of pairs before lines that an extension added, such as ``Template: …``."""
    for i in range(len(lines) - 1, max(-1, len(lines) - 1 - _AFTER), -1):
        if lines[i].startswith("Steps: "):
            pairs = _pairs(lines[i])
            if len(pairs) >= _FEWEST_PAIRS:
                return lines[:i], pairs
    return lines, []


def _pairs(line: str) -> list[tuple[str, str]]:
    """Read ``Key: value`` pairs between commas; what has no key is passed over."""
    found, at, colons = [], 0, 0
    while (colon := line.find(":", at)) >= 0:
        key = line[at:colon].rpartition(",")[2].strip()
        colons += 1
        value, at = _value(line, colon + 1, json_too=colons <= _MOST_PAIRS)
        if len(key) > 1 and all(c.isalnum() or c in _KEY_PUNCTUATION for c in key):
            found.append((key, value))
    return found


def _value(line: str, start: int, *, json_too: bool) -> tuple[str, int]:
    """Return the value that begins at ``start``, and where the next pair does."""
    while line[start : start + 1].isspace():
        start += 1
    # lists and objects: Civitai's resources
    if json_too and line[start : start + 1] in ('"', "[", "{"):
        try:
            value, end = json.JSONDecoder().raw_decode(line, start)
        except (ValueError, RecursionError):
            pass  # a quotation mark that is not closed is one like others
        else:
            after = re.compile(r"\s*(,|$)").match(line, end)
            if after:
                return value if isinstance(value, str) else line[start:end], end + 1
    end = line.find(",", start)
    end = len(line) if end < 0 else end
    return line[start:end].strip(), end + 1


def _quoted(value: str) -> str:
    plain = value == value.strip() and not re.search(r'[,:\n"]', value)
    return value if plain else json.dumps(value, ensure_ascii=False)


def hashes(pairs: Sequence[tuple[str, str]]) -> str:
    """Return A1111's ``Lora hashes`` value: ``name: hash, name: hash``."""
    return ", ".join(f"{name}: {value}" for name, value in pairs)


def named_hashes(value: str) -> dict[str, str]:
    """Read what ``hashes`` wrote; a name may have a colon in it, a hash has none."""
    found = {}
    for pair in value.split(","):
        name, colon, digits = pair.rpartition(":")
        if colon and name.strip():
            found[name.strip()] = digits.strip()
    return found


def save_png(image: Image, file: BinaryIO, text: str, facts: Mapping[str, Any]) -> None:
    """Write a PNG that carries ``text`` as ``parameters`` and ``facts`` as ``memcard``.

    The same picture and texts give the same bytes.
    """
    from memcard.generation.picture import write_picture

    write_picture(image, file, "PNG", text, facts)
