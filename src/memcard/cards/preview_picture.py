"""What the preview of a model was made with, where the picture says it: A1111's ``parameters`` in a PNG.

One picture shows what works, not what is best, so all of it is a guess.

Source: the PNG specification (chunks ``tEXt`` and ``iTXt``), and the text A1111 and its relatives write:
prompt, ``Negative prompt:``, and a last line ``Steps: 20, Sampler: …, CFG scale: 7, …``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from memcard.cards._dialect import Subject, read_head
from memcard.cards._take import Taker
from memcard.core.card import Card

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_HEAD_BYTES: Final = 256 << 10  # texts stand before the picture
_CHUNKS: Final = 100
_FEWEST: Final = 3  # names in the last line; fewer may be the end of a prompt
_NAMES: Final[Mapping[str, str]] = {
    "cfg": "CFG scale",
    "steps": "Steps",
    "sampler": "Sampler",
    "scheduler": "Schedule type",
    "size": "Size",
    "clip_skip": "Clip skip",
    "vae": "VAE",
}
_PAIR: Final = re.compile(r'([A-Za-z][A-Za-z0-9 _/-]{0,40}): ?("(?:[^"\\]|\\.)*"|[^,]*)(?:, ?|$)')


class PreviewPicture:
    """``X.preview.png`` or ``X.png`` with a text named ``parameters`` in it."""

    title = "Settings inside the preview picture"
    source = "https://www.w3.org/TR/png-3/#11textinfo"
    trust = 10

    def read(self, subject: Subject) -> Card | None:
        """Return the settings of the first preview that has any, and the strength of this LoRA in it."""
        for suffix in (".preview.png", ".png"):
            name = subject.named(suffix)
            if name is None:
                continue
            try:
                text = _parameters(subject.path.parent / name)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
            if text:
                return _card(text, subject.stem)
        return None


def _card(text: str, stem: str) -> Card | None:
    taker = Taker("preview_picture", {})
    said = _last_line(text)
    for name, key in _NAMES.items():
        if value := said.get(key):
            taker.put(f"settings.{name}", value, said_as=key, guess=True)
    used = re.search(rf"<lora:{re.escape(stem)}:([0-9.]{{1,9}})", text)
    if used:
        taker.put("settings.strength", used[1], guess=True)
    return taker.card()


def _last_line(text: str) -> dict[str, str]:
    """Return the names and values of the last line; {} if it is no such line."""
    pairs = _PAIR.findall(text.strip().rpartition("\n")[2])
    if len(pairs) < _FEWEST:
        return {}
    return {name.strip(): _unquoted(value.strip()) for name, value in pairs}


def _unquoted(value: str) -> str:
    if value.startswith('"'):
        try:
            return str(json.loads(value))
        except ValueError:
            return value.strip('"')
    return value


def _parameters(path: Path) -> str | None:
    """Return the text named ``parameters``; None if there is none. Compressed texts are not unpacked.

    Raises:
        OSError: the system does not let us read it.
        ValueError: it is no regular file.
    """
    head = read_head(path, _HEAD_BYTES)
    if not head.startswith(_SIGNATURE):
        return None  # a JPEG under the wrong name, as some tools write
    for kind, data in _chunks(head):
        key, _, rest = data.partition(b"\0")
        if key != b"parameters":
            continue
        if kind == b"tEXt":
            return rest.decode("latin-1")
        if kind == b"iTXt" and rest[:1] == b"\0":  # not compressed; then method, language, key
            parts = rest[2:].split(b"\0", 2)
            return parts[-1].decode("utf-8", "replace")
    return None


def _chunks(head: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the chunks before the picture itself, as long as they are whole."""
    at = len(_SIGNATURE)
    for _ in range(_CHUNKS):
        size, kind = int.from_bytes(head[at : at + 4], "big"), head[at + 4 : at + 8]
        end = at + 8 + size
        if kind == b"IDAT" or end > len(head) or not kind:
            return
        yield kind, head[at + 8 : end]
        at = end + 4  # its checksum


PLUGIN = PreviewPicture()
