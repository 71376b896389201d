"""Text on a sheet of pictures: measured, wrapped, in a font that has its letters."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

    Font = FreeTypeFont | ImageFont

# Pillow brings letters of the Latin script. Others are looked for among the fonts of the system.
_FONTS: Final = (
    "DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf",
    "wqy-zenhei.ttc", "Arial Unicode.ttf", "arialuni.ttf", "msyh.ttc", "PingFang.ttc",
)  # fmt: skip
_NO_LETTER: Final = "\uffff"  # no font has it, so it is drawn as what is missing is
_MORE: Final = "…"


def font_for(text: str, size: int) -> Font:
    """Return a font of ``size`` pixels that has the letters of ``text``, or most of them."""
    letters = frozenset(text) - frozenset(" \n")
    return min(_fonts(size), key=lambda font: sum(not _has(font, letter) for letter in letters))


@cache
def _fonts(size: int) -> tuple[Font, ...]:
    from PIL import ImageFont

    found: list[Font] = [ImageFont.load_default(size)]
    for name in _FONTS:
        try:
            found.append(ImageFont.truetype(name, size))
        except OSError:
            continue
    return tuple(found)


@cache
def _has(font: Font, letter: str) -> bool:
    return _drawn(font, letter) != _drawn(font, _NO_LETTER)


def _drawn(font: Font, letter: str) -> bytes:
    mask = font.getmask(letter)
    return repr(mask.size).encode() + bytes(mask)


def wrapped(text: str, font: Font, width: int, lines: int) -> str:
    """Break ``text`` into at most ``lines`` lines of ``width`` pixels; the last one tells of a cut.

    Breaks at spaces, else behind ``_ - . / + ,`` as file names have them, else anywhere.
    """
    found: list[str] = []
    line = ""
    for piece in _pieces(text, font, width):
        if line and font.getlength((line + piece).rstrip()) > width:
            found.append(line.rstrip())
            line = ""
        line += piece.lstrip() if not line else piece
    found.append(line.rstrip())
    if len(found) > lines:
        last = found[lines - 1]
        while last and font.getlength(last + _MORE) > width:
            last = last[:-1]
        found[lines - 1 :] = [last.rstrip() + _MORE]
    return "\n".join(found)


def _pieces(text: str, font: Font, width: int) -> Iterator[str]:
    """Take ``text`` apart where a line may end; no piece is wider than a line."""
    for word in re.findall(r"\S+\s*", " ".join(text.split())):
        if font.getlength(word.rstrip()) <= width:
            yield word
            continue
        for part in re.findall(r"[^_\-./+,]*[_\-./+,]+\s*|[^_\-./+,]+", word):
            rest = part
            while font.getlength(rest.rstrip()) > width and len(rest) > 1:
                fits = 1
                while fits < len(rest) and font.getlength(rest[: fits + 1]) <= width:
                    fits += 1
                yield rest[:fits]
                rest = rest[fits:]
            if rest:
                yield rest
