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
_PAIR = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
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
    pairs = _PAIR.findall(last)
    if len(pairs) < _FEWEST_PAIRS:
        lines, pairs = [*lines, last], []
    at = next((i for i, line in enumerate(lines) if line.startswith(_NEGATIVE)), len(lines))
    negative = "\n".join(lines[at:]).removeprefix(_NEGATIVE)
    settings = {key: _unquoted(value) for key, value in pairs}
    return Infotext("\n".join(lines[:at]), negative, settings)


def _quoted(value: str) -> str:
    plain = value == value.strip() and not re.search(r'[,:\n"]', value)
    return value if plain else json.dumps(value, ensure_ascii=False)


def _unquoted(value: str) -> str:
    if value.startswith('"') and value.endswith('"'):
        try:
            return str(json.loads(value))
        except ValueError:
            return value
    return value.strip()


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
