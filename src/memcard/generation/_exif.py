"""EXIF as far as makers of pictures use it: a few texts, read from any file and written for ours.

Sources: TIFF 6.0, section 2 (header, directories); Exif 2.32, 4.6.5 (UserComment and its character codes).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Final

# Tags that tools put texts into. ComfyUI writes ``prompt:{…}`` into Make, Model and their neighbours.
NAMES: Final[Mapping[int, str]] = {
    0x010E: "ImageDescription",
    0x010F: "Make",
    0x0110: "Model",
    0x0131: "Software",
    0x927C: "MakerNote",
    0x9286: "UserComment",
}
_EXIF_FOLDER: Final = 0x8769
_USER_COMMENT: Final = 0x9286
_ENTRIES: Final = 1000  # of one directory; a camera writes about 60
_TEXT_TYPES: Final = (1, 2, 7)  # BYTE, ASCII, UNDEFINED: one byte each
_SUBFOLDER_TYPE: Final = 4  # LONG
_UNICODE: Final = b"UNICODE\0"
_CODE: Final = 8  # bytes before the text that name its character code


def read(block: bytes) -> dict[str, str]:
    """Return the texts of an EXIF block by the names of ``NAMES``; what is broken is left out.

    Args:
        block: from the byte order mark on; ``Exif`` and two zeros may stand before it.

    Raises:
        ValueError: it is no EXIF block at all.
    """
    block = block.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None or len(block) < 8:
        raise ValueError("the EXIF block has no TIFF header")
    found: dict[str, str] = {}
    folders = [struct.unpack_from(f"{order}I", block, 4)[0]]
    for depth, at in enumerate(folders):
        for tag, kind, value in _entries(block, at, order):
            if tag == _EXIF_FOLDER and kind == _SUBFOLDER_TYPE and depth == 0 and len(folders) == 1:
                folders.append(struct.unpack_from(f"{order}I", value)[0])
            elif tag in NAMES and kind in _TEXT_TYPES:
                text = _comment(value, order) if tag == _USER_COMMENT else _text(value)
                found.setdefault(NAMES[tag], text)
    return found


def write(comment: str) -> bytes:
    """Return an EXIF block with one UserComment, as A1111 writes it: big-endian UTF-16."""
    value = _UNICODE + comment.encode("utf-16-be", "replace")
    # header 8, first directory 2 + 12 + 4, Exif directory 2 + 12 + 4, then the text
    header = struct.pack(">2sHI", b"MM", 42, 8)
    first = struct.pack(">HHHIII", 1, _EXIF_FOLDER, _SUBFOLDER_TYPE, 1, 26, 0)
    second = struct.pack(">HHHIII", 1, _USER_COMMENT, 7, len(value), 44, 0)
    return header + first + second + value


def _entries(block: bytes, at: int, order: str) -> Iterator[tuple[int, int, bytes]]:
    """Yield tag, type and bytes of the entries that lie inside the block."""
    if not 8 <= at <= len(block) - 2:
        return
    (count,) = struct.unpack_from(f"{order}H", block, at)
    for i in range(min(count, _ENTRIES)):
        place = at + 2 + 12 * i
        if place + 12 > len(block):
            return
        tag, kind, number = struct.unpack_from(f"{order}HHI", block, place)
        if kind == _SUBFOLDER_TYPE and number == 1:
            yield tag, kind, block[place + 8 : place + 12]
        elif kind in _TEXT_TYPES:
            start = place + 8
            if number > 4:
                (start,) = struct.unpack_from(f"{order}I", block, start)
            if start + number <= len(block):
                yield tag, kind, block[start : start + number]


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode("utf-8", "replace")


def _comment(value: bytes, order: str) -> str:
    """Decode a UserComment; many tools leave the character code out."""
    code, rest = value[:_CODE], value[_CODE:]
    if code == _UNICODE:
        return _utf16(rest, order)
    if code in (b"ASCII\0\0\0", bytes(_CODE)):
        return _text(rest)
    return _text(value)


def _utf16(value: bytes, order: str) -> str:
    """Decode UTF-16 whose byte order nobody states: A1111 writes big-endian into any block.

    Most letters of a prompt, and every comma and digit, have one zero byte: it tells which comes first.
    """
    for mark, codec in ((b"\xfe\xff", "utf-16-be"), (b"\xff\xfe", "utf-16-le")):
        if value.startswith(mark):
            return value[2:].decode(codec, "replace")
    first, second = value[0::2].count(0), value[1::2].count(0)
    little = second > first or (second == first == 0 and order == "<")
    return value.decode("utf-16-le" if little else "utf-16-be", "replace").rstrip("\0")
